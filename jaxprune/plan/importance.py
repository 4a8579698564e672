"""How much a group of channels matters: entries of leaves scored, then combined."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.paths import batch_norm_factors, name
from jaxprune.types import Array, Predicate, PyTree

LeafScore = Callable[[str, Array], Any]
"""`score(path, leaf)`: non-negative, shaped like the leaf; None to leave it out."""

Combine = Literal["sum", "mean", "max", "norm"]
Normalize = Literal["mean", "rank"] | None

_SHIFTS = frozenset({"bias", "beta", "offset"})


def magnitude(path: str, leaf: Array) -> Array | None:
    """|w| of weights: the leaves with two axes or more that are longer than one.

    With `combine="norm"` this is the L2 norm of all weights of the group.

    Example:
      >>> magnitude("kernel", np.array([[1.0, -2.0], [0.0, 3.0]]))
      Array([[1., 2.],
             [0., 3.]], dtype=float32)
    """
    del path
    return jnp.abs(leaf) if sum(n > 1 for n in np.shape(leaf)) > 1 else None


def batch_norm_scale(path: str, leaf: Array) -> Array | None:
    """|γ| of batch normalisation, found by `jaxprune.paths.batch_norm_factors`.

    As in Network Slimming (Liu et al., 2017) when combined by "sum" or "max".

    Example:
      >>> batch_norm_scale("BatchNorm_0/scale", np.array([0.5, -1.0]))
      Array([0.5, 1. ], dtype=float32)
    """
    shift = path.rsplit("/", 1)[-1] in _SHIFTS
    return jnp.abs(leaf) if batch_norm_factors(path, leaf) and not shift else None


def first_order(gradients: PyTree) -> LeafScore:
    """|g·w|: what the loss changes by, to first order, when an entry goes to zero.

    Args:
      gradients: of the loss, shaped like the variables or like a part that begins at
        their root; leaves without a gradient are left out.

    Example:
      >>> score = first_order({"w": np.array([1.0, -2.0])})
      >>> score("w", np.array([3.0, 4.0]))
      Array([3., 8.], dtype=float32)
    """
    by_path = {name(p): g for p, g in jax.tree.leaves_with_path(gradients)}

    def score(path: str, leaf: Array) -> Array | None:
        gradient = by_path.get(path)
        return None if gradient is None else jnp.abs(gradient * leaf)

    return score


def random(coupling: Any, seed: int) -> np.ndarray:
    """Scores drawn uniformly, one for each group: the baseline to beat.

    Args:
      coupling: what `jaxprune.trace_coupling` found.
      seed: of the draw.

    Returns:
      Floats in [0, 1) of shape (coupling.size + 1,), for `make_plan(score=…)`.

    Example:
      >>> import jaxprune as jp
      >>> v = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
      >>> mlp = lambda v, x: jnp.tanh(x @ v["in"]) @ v["out"]
      >>> random(jp.trace_coupling(mlp, v, jnp.ones((1, 3))), seed=0).shape
      (9,)
    """
    return np.random.default_rng(seed).random(coupling.size + 1)


def group_scores(
    coupling: Any,
    variables: PyTree,
    score: LeafScore | np.ndarray,
    *,
    combine: Combine = "norm",
    normalize: Normalize = None,
) -> np.ndarray:
    """One score for each group.

    Every entry of a leaf counts for each group that one of its slots belongs to. With s
    the entries of a group: "sum" Σs, "mean" Σs/n, "max" max s, "norm" √Σs².

    Args:
      coupling: what `jaxprune.trace_coupling` found.
      variables: the variables that it was traced with.
      score: how much the entries of a leaf matter, or the groups' scores themselves, of
        shape (coupling.size + 1,).
      combine: how the entries of a group become one number.
      normalize: "mean" divides by the mean over the layer, "rank" replaces a score by
        its rank in the layer, from 0 to 1, so that each layer loses the same share.
        A layer here is all groups that live on the same axes of the same leaves.

    Returns:
      Floats of shape (coupling.size + 1,); the first one, of the frozen slots, is inf.

    Raises:
      ValueError: no leaf is scored, a score is NaN or negative, or a shape differs.

    Example:
      >>> import jaxprune as jp
      >>> v = {"in": jnp.array([[3.0, 0.0]]), "out": jnp.array([[4.0], [1.0]])}
      >>> mlp = lambda v, x: jnp.tanh(x @ v["in"]) @ v["out"]
      >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 1)))
      >>> group_scores(coupling, v, lambda path, leaf: abs(leaf))
      array([inf,  5.,  1.])
    """
    if callable(score):
        values = _combined(coupling, variables, score, combine)
    else:
        values = np.array(score, float)
        if values.shape != (coupling.size + 1,):
            raise ValueError(
                f"group scores must have shape ({coupling.size + 1},), "
                f"got {values.shape}"
            )
    if not (values[1:] >= 0).all():
        raise ValueError(f"scores must be ≥ 0, got {values[1:].min()}")
    if normalize is not None:
        for members in layers(coupling):
            values[members] = _normalized(values[members], normalize)
    values[0] = np.inf
    return values


def per_cost(
    coupling: Any,
    scores: np.ndarray,
    *,
    params: float = 0.0,
    macs: float = 0.0,
    counted: Predicate | None = None,
) -> np.ndarray:
    """Scores divided by what the group costs: the greedy order of a knapsack.

        s_g / (params · Δparams_g / params_all + macs · ΔMACs_g / MACs_all)

    Δ is what the network saves without the group, all others kept.

    Args:
      coupling: what `jaxprune.trace_coupling` found.
      scores: of each group, shape (coupling.size + 1,), from `group_scores`.
      params: how much parameters weigh, ≥ 0.
      macs: how much multiply-adds weigh, ≥ 0; not both 0.
      counted: which leaves count as parameters, see `make_plan`.

    Returns:
      Floats of shape (coupling.size + 1,).

    Raises:
      ValueError: a weight is negative, or both are 0.

    Example:
      >>> import jaxprune as jp
      >>> v = {"in": jnp.ones((3, 2)), "out": jnp.ones((2, 1))}
      >>> mlp = lambda v, x: jnp.tanh(x @ v["in"]) @ v["out"]
      >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 3)))
      >>> per_cost(coupling, np.array([np.inf, 1.0, 3.0]), params=1.0)
      array([inf,  2.,  6.])
    """
    if not (params >= 0 and macs >= 0 and params + macs > 0):
        raise ValueError(
            f"weights must be ≥ 0 and not both 0, got params={params}, macs={macs}"
        )

    def cost(keep: np.ndarray) -> np.ndarray:
        return np.array([coupling.params(keep, counted), coupling.macs(keep)], float)

    everything = np.ones(coupling.size + 1, bool)
    full = cost(everything)
    divided = np.array(scores, float)
    for members in layers(coupling):
        without = everything.copy()
        without[members[0]] = False
        saved = (full - cost(without)) / np.maximum(full, 1)
        divided[members] /= max(params * saved[0] + macs * saved[1], 1e-12)
    return divided


def layers(coupling: Any) -> list[np.ndarray]:
    """The groups, put together when they live on the same axes of the same leaves."""
    homes: list[list[int]] = [[] for _ in range(coupling.size + 1)]
    for number, labels in enumerate(axes_of(coupling).values()):
        for group in np.unique(labels).tolist():
            homes[group].append(number)
    together: dict[tuple, list[int]] = {}
    for group in range(1, coupling.size + 1):
        together.setdefault(tuple(homes[group]), []).append(group)
    return [np.array(members) for members in together.values()]


def axes_of(coupling: Any) -> dict[tuple[str, int], np.ndarray]:
    """Labels of every axis that some group can take slots from."""
    return {
        (path, axis): labels
        for path, leaf in coupling.leaves.items()
        for axis, labels in enumerate(leaf.labels)
        if labels.any()
    }


def _combined(
    coupling: Any, variables: PyTree, score: LeafScore, combine: Combine
) -> np.ndarray:
    if combine not in ("sum", "mean", "max", "norm"):
        raise ValueError(f"combine must be sum, mean, max or norm, got {combine!r}")
    total, entries = np.zeros((2, coupling.size + 1))
    gather = np.maximum if combine == "max" else np.add
    for path, leaf in jax.tree.leaves_with_path(variables):
        scored = score(name(path), leaf)
        if scored is None:
            continue
        values = np.asarray(scored, float)
        if values.shape != np.shape(leaf):
            raise ValueError(
                f"the score of {name(path)!r} has shape {values.shape}, "
                f"the leaf {np.shape(leaf)}"
            )
        values = values**2 if combine == "norm" else values
        for axis, labels in enumerate(coupling.leaves[name(path)].labels):
            others = tuple(i for i in range(values.ndim) if i != axis)
            gather.at(total, labels, gather.reduce(values, axis=others))
            np.add.at(entries, labels, values.size // len(labels))
    if not entries[1:].any():
        raise ValueError(f"{score!r} scores no leaf that could lose channels")
    if combine == "mean":
        return total / np.maximum(entries, 1)
    return np.sqrt(total) if combine == "norm" else total


def _normalized(values: np.ndarray, normalize: Normalize) -> np.ndarray:
    if normalize == "mean":
        return values / (values.mean() or 1.0)
    if normalize == "rank":
        return (np.argsort(np.argsort(values, stable=True)) + 0.5) / len(values)
    raise ValueError(f"normalize must be None, 'mean' or 'rank', got {normalize!r}")
