"""Shifted images, of which a CPU makes convolutions fast.

Every convolution is a sum over taps (a, b) of images shifted by (a, b) − p, where p is
the padding before. XLA's CPU backend is slow at many convolutions, autodiff of shifted
slices passes over memory many times, so `depthwise`, `standard` and `winograd` put
together here what each needs. On other platforms convolutions are XLA's own, which is
right there.

Arrays are NHWC, kernels HWIO.
"""

import itertools
from collections.abc import Sequence
from typing import TypeAlias

import jax.numpy as jnp
from jax import Array, lax

Padding: TypeAlias = Sequence[tuple[int, int]]
"""Before and after, for each direction."""

NO_PADDING = ((0, 0), (0, 0))

_NHWC = ("NHWC", "HWIO", "NHWC")


def convolution(x: Array, w: Array, stride: int, padding: Padding) -> Array:
    """XLA's own; each channel by itself where kernels have one input and x has more."""
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        padding,
        dimension_numbers=_NHWC,
        feature_group_count=x.shape[-1] // w.shape[2],
    )


def sum_over_taps(padded: Array, w: Array, stride: int) -> Array:
    out = out_shape(padded, len(w), stride)
    return sum(w[a, b] * shifted(padded, a, b, stride, out) for a, b in taps_of(len(w)))


def images_from(x: Array, start: Array, number: int) -> Array:
    """Sliced where they lie: a scan over reshaped images would copy them all first."""
    return lax.dynamic_slice_in_dim(x, start, number)


def taps_of(k: int) -> list[tuple[int, int]]:
    return list(itertools.product(range(k), repeat=2))


def shifted(padded: Array, a: int, b: int, stride: int, out: tuple[int, int]) -> Array:
    n, _, _, c = padded.shape
    ends = (a + stride * (out[0] - 1) + 1, b + stride * (out[1] - 1) + 1)
    return lax.slice(padded, (0, a, b, 0), (n, *ends, c), (1, stride, stride, 1))


def out_shape(padded: Array, k: int, stride: int) -> tuple[int, int]:
    return tuple((size - k) // stride + 1 for size in padded.shape[1:3])


def same_padding(x: Array, w: Array, stride: int) -> Padding:
    """Before and after, for each direction, as "SAME" means it."""
    pads = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], (stride, stride), "SAME")
    return tuple(pads)


def pad(x: Array, padding: Padding, interior: int = 0) -> Array:
    """With zeros around it; on a CPU made once, not anew for each tap."""
    spatial = [(before, after, interior) for before, after in padding]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spatial, (0, 0, 0)])
    return lax.platform_dependent(
        padded, cpu=lax.optimization_barrier, default=lambda x: x
    )
