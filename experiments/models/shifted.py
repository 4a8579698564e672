"""Convolutions as sums of shifted images, which is what a CPU runs fast.

XLA's CPU backend has no fast convolution of each channel by itself, of images of few
channels, or of images no larger than the kernel, nor fast derivatives by weights, and
autodiff of shifted slices passes over memory many times. On other platforms
convolutions are XLA's own, which is right there.

Arrays are NHWC, kernels HWIO; padding is "SAME" where nothing else is said.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

Padding: TypeAlias = Sequence[tuple[int, int]]

_NHWC = ("NHWC", "HWIO", "NHWC")
_NONE = ((0, 0), (0, 0))  # padding
_FEW = 3  # colours
_PIXELS = 1 << 12  # of so many at a time the weight gradient is summed
_UNROLLED = 16  # images whose products the depthwise weight gradient sums at once

# --- Depthwise convolution -----------------------------------------------------------
#
#     y[n, i, j, c]  = Σ_ab  w[a, b, c] · x[n, s·i + a − p, s·j + b − p, c]
#     dw[a, b, c]    = Σ_nij g[n, i, j, c] · x[n, s·i + a − p, s·j + b − p, c]
#     dx[n, u, v, c] = Σ_ab  w[a, b, c] · g[n, (u + p − a)/s, (v + p − b)/s, c]
#
# s is the stride, p the padding before; x is zero outside the image, g where the index
# is not whole. Each is a sum over the taps (a, b) of a shifted image.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise(x: Array, w: Array, stride: int, padding: Padding) -> Array:
    """Convolves every channel with its own kernel.

    Args:
      x: images, (N, H, W, C).
      w: kernels, (k, k, 1, C).
      stride: 1 or more, for both directions.
      padding: before and after, for each direction.

    Returns:
      (N, H', W', C).
    """
    return lax.platform_dependent(
        x,
        w,
        cpu=lambda x, w: _sum_over_taps(_pad(x, padding), w, stride),
        default=partial(convolution, stride=stride, padding=padding),
    )


def _depthwise_forward(x: Array, w: Array, stride: int, padding: Padding):
    padded = _pad(x, padding)  # once, for the derivative too
    return depthwise(padded, w, stride, _NONE), (padded, w)


def _depthwise_backward(
    stride: int, padding: Padding, saved: tuple[Array, Array], g: Array
):
    def on_cpu(padded, w, g):
        return (
            _depthwise_input_gradient(padded, w, g, stride, padding),
            _depthwise_weight_gradient(padded, w, g, stride),
        )

    def elsewhere(padded, w, g):
        _, vjp = jax.vjp(lambda x, w: convolution(x, w, stride, _NONE), padded, w)
        dx, dw = vjp(g)
        return _without(dx, padding), dw

    return lax.platform_dependent(*saved, g, cpu=on_cpu, default=elsewhere)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_input_gradient(
    padded: Array, w: Array, g: Array, stride: int, padding: Padding
) -> Array:
    k = w.shape[0]
    spread = [stride * (size - 1) + 1 for size in g.shape[1:3]]
    around = [
        (k - 1 - before, size - after - n)
        for (before, after), size, n in zip(
            padding, padded.shape[1:3], spread, strict=True
        )
    ]
    return _sum_over_taps(_pad(g, around, stride - 1), w[::-1, ::-1], 1)


def _depthwise_weight_gradient(padded: Array, w: Array, g: Array, stride: int) -> Array:
    """A scan over a few images at a time, which stay in the cache.

    XLA reduces one output at a time, striding through memory. Products of images
    written out as a sum are vectorised along rows, columns and channels instead.
    """
    taps = _taps(w.shape[0])
    group = math.gcd(len(g), _UNROLLED)

    def add(sums, start):
        some_x, some_g = (_images(y, start, group) for y in (padded, g))

        def products(a, b):
            shifted = _shifted(some_x, a, b, stride, g.shape[1:3])
            return sum(map(jnp.multiply, jnp.unstack(some_g), jnp.unstack(shifted)))

        return [s + products(*tap) for s, tap in zip(sums, taps, strict=True)], None

    zeros = [jnp.zeros(g.shape[1:], g.dtype)] * len(taps)
    sums, _ = lax.scan(add, zeros, jnp.arange(0, len(g), group))
    return jnp.stack([jnp.sum(s, axis=(0, 1)) for s in sums]).reshape(w.shape)


# --- Standard convolution -------------------------------------------------------------
#
#     y[n, i, j, o]  = Σ_abc  w[a, b, c, o] · x[n, s·i + a − p, s·j + b − p, c]
#     dw[a, b, c, o] = Σ_nij  x[n, s·i + a − p, s·j + b − p, c] · g[n, i, j, o]
#
# XLA's CPU backend has this for y and dx, a convolution of g, but takes four times as
# long as it needs for dw, up to eighty times for images no larger than the kernel, and
# eight times for y of three colours. What replaces it there is one matrix product for
# each tap (a, b), or for few channels one shifted image for each (a, b, c).


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def standard(x: Array, w: Array, stride: int, padding: Padding) -> Array:
    """A convolution in which every output sees all inputs.

    Args:
      x: images, (N, H, W, I).
      w: kernels, (k, k, I, O).
      stride: 1 or more, for both directions.
      padding: before and after, for each direction.

    Returns:
      (N, H', W', O).
    """
    own = partial(convolution, stride=stride, padding=padding)
    if _for_cpu(x, w) is convolution:
        return own(x, w)
    cpu = partial(_for_cpu(x, w), stride=stride, padding=padding)
    return lax.platform_dependent(x, w, cpu=cpu, default=own)


def _standard_forward(x: Array, w: Array, stride: int, padding: Padding):
    return standard(x, w, stride, padding), (x, w)


def _standard_backward(
    stride: int, padding: Padding, saved: tuple[Array, Array], g: Array
):
    def on_cpu(x, w, g):
        _, vjp = jax.vjp(lambda x: _for_cpu(x, w)(x, w, stride, padding), x)
        return *vjp(g), _weight_gradient(x, w.shape[0], g, stride, padding)

    def elsewhere(x, w, g):
        return jax.vjp(lambda x, w: convolution(x, w, stride, padding), x, w)[1](g)

    return lax.platform_dependent(*saved, g, cpu=on_cpu, default=elsewhere)


standard.defvjp(_standard_forward, _standard_backward)


def _for_cpu(x: Array, w: Array) -> Callable[..., Array]:
    """What computes y fastest."""
    if x.shape[-1] <= _FEW:
        return _shifted_products
    return _matrix_products if min(x.shape[1:3]) <= w.shape[0] else convolution


def of_linen(x, w, strides, padding, **options):
    """`standard` as `nn.Conv` calls it.

    Raises:
      ValueError: the strides differ, or there is a dilation or there are groups.
    """
    dilated = [options.get(f"{side}_dilation") for side in ("lhs", "rhs")]
    plain = options.get("feature_group_count", 1) == 1 and strides[0] == strides[1]
    if not plain or any(set(d or (1,)) != {1} for d in dilated):
        raise ValueError(
            "a convolution here has one stride, no dilation and no groups; got "
            f"strides {strides}, dilations {dilated}, "
            f"{options.get('feature_group_count', 1)} groups"
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], strides, padding)
    return standard(x, w, strides[0], tuple(map(tuple, padding)))


def _shifted_products(x: Array, w: Array, stride: int, padding: Padding) -> Array:
    channels = jnp.split(_pad(x, padding), x.shape[-1], axis=-1)
    return sum(_sum_over_taps(y, w[:, :, c], stride) for c, y in enumerate(channels))


def _matrix_products(x: Array, w: Array, stride: int, padding: Padding) -> Array:
    k = w.shape[0]
    padded = _pad(x, padding)
    out = _out_shape(padded, k, stride)
    return sum(_shifted(padded, a, b, stride, out) @ w[a, b] for a, b in _taps(k))


def _weight_gradient(
    x: Array, k: int, g: Array, stride: int, padding: Padding
) -> Array:
    """A scan over a few images at a time, which stay in the cache."""
    images, *out, outputs = g.shape
    inputs = x.shape[-1]
    taps = _taps(k)
    group = math.gcd(images, max(1, _PIXELS // math.prod(out)))

    def add(sums, start):
        padded = _pad(_images(x, start, group), padding)
        pixels = _images(g, start, group).reshape(-1, outputs)

        def product(a, b):
            shifted = lax.optimization_barrier(_shifted(padded, a, b, stride, out))
            return shifted.reshape(-1, inputs).T @ pixels

        return sums + jnp.stack([product(*tap) for tap in taps]), None

    zeros = jnp.zeros((len(taps), inputs, outputs), g.dtype)
    sums, _ = lax.scan(add, zeros, jnp.arange(0, images, group))
    return sums.reshape(k, k, inputs, outputs)


# --- What they share -----------------------------------------------------------------


def convolution(
    x: Array, w: Array, stride: int = 1, padding: str | Padding = "SAME"
) -> Array:
    """XLA's own; each channel by itself where kernels have one input and x has more."""
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        padding,
        dimension_numbers=_NHWC,
        feature_group_count=x.shape[-1] // w.shape[2],
    )


def _sum_over_taps(padded: Array, w: Array, stride: int) -> Array:
    out = _out_shape(padded, len(w), stride)
    return sum(w[a, b] * _shifted(padded, a, b, stride, out) for a, b in _taps(len(w)))


def _images(x: Array, start: Array, number: int) -> Array:
    """Sliced where they lie: a scan over reshaped images would copy them all first."""
    return lax.dynamic_slice_in_dim(x, start, number)


def _taps(k: int) -> list[tuple[int, int]]:
    return list(itertools.product(range(k), repeat=2))


def _shifted(padded: Array, a: int, b: int, stride: int, out: tuple[int, int]) -> Array:
    n, _, _, c = padded.shape
    ends = (a + stride * (out[0] - 1) + 1, b + stride * (out[1] - 1) + 1)
    return lax.slice(padded, (0, a, b, 0), (n, *ends, c), (1, stride, stride, 1))


def _out_shape(padded: Array, k: int, stride: int) -> tuple[int, int]:
    return tuple((size - k) // stride + 1 for size in padded.shape[1:3])


def same_padding(x: Array, w: Array, stride: int) -> Padding:
    """Before and after, for each direction, as "SAME" means it."""
    pads = lax.padtype_to_pads(x.shape[1:3], w.shape[:2], (stride, stride), "SAME")
    return tuple(pads)


def _pad(x: Array, padding: Padding, interior: int = 0) -> Array:
    """With zeros around it; on a CPU made once, not anew for each tap."""
    spatial = [(before, after, interior) for before, after in padding]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spatial, (0, 0, 0)])
    return lax.platform_dependent(
        padded, cpu=lax.optimization_barrier, default=lambda x: x
    )


def _without(padded: Array, padding: Padding) -> Array:
    (top, bottom), (left, right) = padding
    _, rows, columns, _ = padded.shape
    return padded[:, top : rows - bottom, left : columns - right]
