"""3×3 convolutions with fewer products: F(2×2, 3×3) of Lavin & Gray (2016).

Of every tile of 4×4 pixels d come 2×2 of y; where the plain sum has 36 products for
each pair of channels, this has the 16 of ⊙:

    y  = Aᵀ [ (G w Gᵀ) ⊙ (Bᵀ d B) ] A         D = Bᵀ d B      W = G w Gᵀ
    dw = Gᵀ [ Σ_tiles (Bᵀ d B) ⊙ (A g Aᵀ) ] G

Each of the 16 is a matrix product over all tiles, D[u, v] W[u, v] and D[u, v]ᵀ (A g
Aᵀ)[u, v]; all else is additions. dx is the convolution of g with w mirrored.

*Fast algorithms for convolutional neural networks*, CVPR 2016.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from experiments.models.shifted import Padding, images_from, pad, shifted

KERNEL = 3

_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]).T
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]]).T
_KERNEL = np.kron(_G, _G)  # of a kernel's 9 numbers in a row
_TILES = 1 << 11  # so many at a time, which stay in the cache

Grid: TypeAlias = Sequence[Sequence[Array]]


def convolve(x: Array, w: Array, stride: int, padding: Padding) -> Array:
    """A convolution with 3×3 kernels.

    Args:
      x: images, (N, H, W, I).
      w: kernels, (3, 3, I, O).
      stride: 1.
      padding: before and after, for each direction.

    Returns:
      (N, H', W', O).
    """
    del stride
    return _convolved(x, _combined(_KERNEL, w, 4), padding)


def gradients(x: Array, w: Array, g: Array, padding: Padding) -> tuple[Array, Array]:
    """dx and dw, from the cotangent g of `convolve`."""
    around = [(KERNEL - 1 - before, KERNEL - 1 - after) for before, after in padding]
    mirrored = _combined(_KERNEL[:, ::-1], w, 4).swapaxes(2, 3)
    return _convolved(g, mirrored, around), _weight_gradient(x, g, padding)


def _convolved(x: Array, kernels: Array, padding: Padding) -> Array:
    out = _out_shape(x, padding)
    group = _group(len(x), out)

    def some(start):
        tiles = _both(_B.T, _tiles(images_from(x, start, group), padding))
        products = [
            [lax.optimization_barrier(d) @ kernels[u, v] for v, d in enumerate(row)]
            for u, row in enumerate(tiles)
        ]
        return _interleaved(_both(_A.T, products))[:, : out[0], : out[1]]

    y = lax.map(some, jnp.arange(0, len(x), group))
    return y.reshape(len(x), *out, kernels.shape[-1])


def _weight_gradient(x: Array, g: Array, padding: Padding) -> Array:
    group = _group(len(x), g.shape[1:3])

    def add(sums, start):
        tiles = _both(_B.T, _tiles(images_from(x, start, group), padding))
        spread = _both(_A, _pixels(images_from(g, start, group)))
        products = [
            [_flat(d).T @ _flat(s) for d, s in zip(*rows, strict=True)]
            for rows in zip(tiles, spread, strict=True)
        ]
        return sums + jnp.array(products), None

    zeros = jnp.zeros((4, 4, x.shape[-1], g.shape[-1]), g.dtype)
    sums, _ = lax.scan(add, zeros, jnp.arange(0, len(x), group))
    return _combined(_KERNEL.T, sums, KERNEL)


def _combined(matrix: np.ndarray, grid: Array, size: int) -> Array:
    """`_both` as one matrix product, for few and large entries; size × size of them."""
    entries = grid.reshape(-1, *grid.shape[2:])
    combined = jnp.tensordot(matrix.astype(grid.dtype), entries, 1)
    return combined.reshape(size, size, *grid.shape[2:])


def _both(matrix: np.ndarray, grid: Grid) -> Grid:
    """matrix · grid · matrixᵀ, where the grid's entries are arrays."""
    columns = [_times(matrix, column) for column in zip(*grid, strict=True)]
    return [_times(matrix, row) for row in zip(*columns, strict=True)]


def _times(matrix: np.ndarray, entries: Sequence[Array]) -> list[Array]:
    return [
        sum(float(m) * e for m, e in zip(row, entries, strict=True) if m)
        for row in matrix
    ]


def _tiles(x: Array, padding: Padding) -> Grid:
    """Of all overlapping tiles the pixels (a, b): 4×4 arrays (N, tiles, tiles, I)."""
    odd = [size % 2 for size in _out_shape(x, padding)]
    even = [
        (before, after + o) for (before, after), o in zip(padding, odd, strict=True)
    ]
    padded = pad(x, even)
    count = tuple(size // 2 - 1 for size in padded.shape[1:3])
    return [[shifted(padded, a, b, 2, count) for b in range(4)] for a in range(4)]


def _pixels(g: Array) -> Grid:
    """Of all tiles of 2×2 the pixels (a, b)."""
    even = pad(g, [(0, size % 2) for size in g.shape[1:3]])
    return [[even[:, a::2, b::2] for b in range(2)] for a in range(2)]


def _interleaved(grid: Grid) -> Array:
    """The image of which these are the pixels of all tiles."""
    rows = jnp.stack([jnp.stack(row, axis=3) for row in grid], axis=2)
    n, down, _, across, _, channels = rows.shape
    return rows.reshape(n, 2 * down, 2 * across, channels)


def _flat(x: Array) -> Array:
    return lax.optimization_barrier(x.reshape(-1, x.shape[-1]))


def _out_shape(x: Array, padding: Padding) -> tuple[int, ...]:
    return tuple(
        size + sum(around) - KERNEL + 1
        for size, around in zip(x.shape[1:3], padding, strict=True)
    )


def _group(images: int, out: Sequence[int]) -> int:
    return math.gcd(images, max(1, 4 * _TILES // math.prod(out)))
