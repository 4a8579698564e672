"""How a sparsity is shared out between leaves: equally, or by Erdős–Rényi kernel."""

import math
from collections.abc import Sequence

import numpy as np

Shapes = Sequence[tuple[int, ...]]


def uniform(shapes: Shapes, sparsity: float) -> np.ndarray:
    """The same share of each leaf: round(s·n) of its n weights.

    Args:
      shapes: the shape of each leaf.
      sparsity: s in [0, 1).

    Returns:
      How many weights of each leaf to prune.

    Raises:
      ValueError: the sparsity is out of range.

    Example:
      >>> uniform([(10, 10), (10, 2)], 0.5)
      array([50, 10])
    """
    _validate(sparsity)
    return np.array([round(sparsity * math.prod(shape)) for shape in shapes])


def erdos_renyi_kernel(shapes: Shapes, sparsity: float) -> np.ndarray:
    """Small leaves stay denser: density ∝ sum of the dimensions / their product.

    With d the sum of a leaf's dimensions (inputs, outputs, and the sides of a
    convolution's kernel) and n their product, the leaf keeps

        min(⌈ε·d⌉, n)   weights, its density being ε·d/n,

    with the ε for which all leaves together keep what the sparsity says. Evci et al.,
    *Rigging the lottery: making all tickets winners* (2020), after Mocanu et al.,
    *Scalable training of artificial neural networks with adaptive sparse connectivity*
    (2018). To round up is ours: the total is exact (of leaves that would get their next
    weight at the same ε the earlier go first), each leaf keeps a weight, and a higher
    sparsity never gives one back.

    Args:
      shapes: the shape of each leaf.
      sparsity: s in [0, 1), of all leaves together.

    Returns:
      How many weights of each leaf to prune; their sum is round(s·size).

    Raises:
      ValueError: the sparsity is out of range, or leaves fewer weights than leaves.

    Example:
      >>> erdos_renyi_kernel([(100, 100), (100, 10), (3, 3, 1, 4)], 0.9)
      array([9311,  621,    0])
    """
    _validate(sparsity)
    sizes = np.array([math.prod(shape) for shape in shapes])
    dims = np.array([sum(shape) for shape in shapes])
    total = sizes.sum() - round(sparsity * sizes.sum())
    if total < len(shapes):
        raise ValueError(
            f"sparsity {sparsity} keeps {total} of {sizes.sum()} weights, "
            f"fewer than the {len(shapes)} leaves: lower it"
        )
    sure = _epsilon(sizes, dims, total - len(shapes))
    kept = np.minimum(np.ceil(sure * dims), sizes).astype(int)
    for _ in range(total - kept.sum()):
        kept[np.argmin(np.where(kept < sizes, kept / dims, np.inf))] += 1
    return sizes - kept


def _epsilon(sizes: np.ndarray, dims: np.ndarray, total: int) -> float:
    """The ε with Σ min(ε·d, n) = total: linear from one leaf's fill to the next."""
    full = np.sort(sizes / dims)
    kept = np.minimum(full[:, None] * dims, sizes).sum(1)
    return np.interp(total, [0, *kept], [0, *full])


def _validate(sparsity: float):
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must be in [0, 1), got {sparsity}")
