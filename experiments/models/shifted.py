"""Convolutions as sums of shifted images, which is what a CPU runs fast.

XLA's CPU backend has no fast convolution of each channel by itself, nor of images of
few channels, and autodiff of shifted slices passes over memory many times. On other
platforms convolutions are XLA's own, which is right there.

Arrays are NHWC, kernels HWIO; padding is "SAME".
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

_NHWC = ("NHWC", "HWIO", "NHWC")
_UNROLLED = 32  # products that the depthwise weight gradient sums in one expression

# --- Depthwise convolution -----------------------------------------------------------
#
#     y[n, i, j, c]  = Σ_ab  w[a, b, c] · x[n, s·i + a − p, s·j + b − p, c]
#     dw[a, b, c]    = Σ_nij g[n, i, j, c] · x[n, s·i + a − p, s·j + b − p, c]
#     dx[n, u, v, c] = Σ_ab  w[a, b, c] · g[n, (u + p − a)/s, (v + p − b)/s, c]
#
# s is the stride, p the padding before; x is zero outside the image, g where the index
# is not whole. Each is a sum over the taps (a, b) of a shifted image.


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: Array, w: Array, stride: int = 1) -> Array:
    """Convolves every channel with its own kernel.

    Args:
      x: images, (N, H, W, C).
      w: kernels, (k, k, 1, C).
      stride: 1 or more, for both directions.

    Returns:
      (N, ⌈H / stride⌉, ⌈W / stride⌉, C).
    """
    return lax.platform_dependent(
        x,
        w,
        cpu=partial(_depthwise_shifted, stride=stride),
        default=partial(convolution, stride=stride),
    )


def _depthwise_forward(x: Array, w: Array, stride: int):
    return depthwise(x, w, stride), (x, w)


def _depthwise_backward(stride: int, saved: tuple[Array, Array], g: Array):
    return lax.platform_dependent(
        *saved,
        g,
        cpu=partial(_depthwise_shifted_vjp, stride=stride),
        default=partial(_depthwise_conv_vjp, stride=stride),
    )


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_conv_vjp(x: Array, w: Array, g: Array, stride: int):
    return jax.vjp(partial(convolution, stride=stride), x, w)[1](g)


def _depthwise_shifted(x: Array, w: Array, stride: int) -> Array:
    padded = _pad(x, _same_padding(x, w, stride))
    out = _out_shape(x, stride)
    return _sum_over_taps(w, lambda a, b: _shifted(padded, a, b, stride, out))


def _depthwise_shifted_vjp(x: Array, w: Array, g: Array, stride: int):
    return (
        _depthwise_input_gradient(x, w, g, stride),
        _depthwise_weight_gradient(x, w, g, stride),
    )


def _depthwise_input_gradient(x: Array, w: Array, g: Array, stride: int) -> Array:
    k = w.shape[0]
    before, _ = zip(*_same_padding(x, w, stride), strict=True)
    spread = [stride * (size - 1) + 1 for size in g.shape[1:3]]
    padding = [
        (k - 1 - p, size + p - n)
        for p, size, n in zip(before, x.shape[1:3], spread, strict=True)
    ]
    padded = _pad(g, padding, stride - 1)
    return _sum_over_taps(
        w, lambda a, b: _shifted(padded, k - 1 - a, k - 1 - b, 1, x.shape[1:3])
    )


def _depthwise_weight_gradient(x: Array, w: Array, g: Array, stride: int) -> Array:
    """A scan over a few images at a time, which stay in the cache.

    XLA reduces one output at a time, striding through memory. Sums of rows written out
    are vectorised along columns and channels instead; what is left to reduce is small.
    """
    k = w.shape[0]
    images, rows, columns, channels = g.shape
    taps = [(a, b) for a in range(k) for b in range(k)]
    padding = _same_padding(x, w, stride)
    group = math.gcd(images, max(1, _UNROLLED // rows))

    def add(sums, group):
        x, g = group
        padded = _pad(x, padding)

        def products(a, b):
            shifted = _shifted(padded, a, b, stride, (rows, columns))
            return sum(jnp.unstack((g * shifted).reshape(-1, columns, channels)))

        return [s + products(*tap) for s, tap in zip(sums, taps, strict=True)], None

    zeros = [jnp.zeros((columns, channels), g.dtype)] * len(taps)
    grouped = [y.reshape(-1, group, *y.shape[1:]) for y in (x, g)]
    sums, _ = lax.scan(add, zeros, grouped)
    return jnp.stack([jnp.sum(s, axis=0) for s in sums]).reshape(w.shape)


# --- Convolution of few channels -----------------------------------------------------
#
#     y[n, i, j, o]  = Σ_abc  w[a, b, c, o] · x[n, s·i + a − p, s·j + b − p, c]
#
# One product for each (a, b, c). The derivatives are those of XLA's convolution.


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def of_few_channels(x: Array, w: Array, stride: int = 1) -> Array:
    """A convolution of images that have few channels, such as three colours.

    Args:
      x: images, (N, H, W, I).
      w: kernels, (k, k, I, O).
      stride: 1 or more, for both directions.

    Returns:
      (N, ⌈H / stride⌉, ⌈W / stride⌉, O).
    """
    return lax.platform_dependent(
        x,
        w,
        cpu=partial(_few_shifted, stride=stride),
        default=partial(convolution, stride=stride),
    )


def _few_forward(x: Array, w: Array, stride: int):
    return of_few_channels(x, w, stride), (x, w)


def _few_backward(stride: int, saved: tuple[Array, Array], g: Array):
    return jax.vjp(partial(convolution, stride=stride), *saved)[1](g)


of_few_channels.defvjp(_few_forward, _few_backward)


def _few_shifted(x: Array, w: Array, stride: int) -> Array:
    padded, out = _pad(x, _same_padding(x, w, stride)), _out_shape(x, stride)
    return sum(
        _sum_over_taps(
            w[:, :, c],
            lambda a, b, c=c: _shifted(padded, a, b, stride, out)[..., c, None],
        )
        for c in range(x.shape[-1])
    )


# --- What they share -----------------------------------------------------------------


def convolution(x: Array, w: Array, stride: int = 1) -> Array:
    """XLA's own; each channel by itself where kernels have one input and x has more."""
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        dimension_numbers=_NHWC,
        feature_group_count=x.shape[-1] // w.shape[2],
    )


def _sum_over_taps(w: Array, shifted: Callable[[int, int], Array]) -> Array:
    k = w.shape[0]
    return sum(w[a, b] * shifted(a, b) for a in range(k) for b in range(k))


def _shifted(padded: Array, a: int, b: int, stride: int, out: tuple[int, int]) -> Array:
    n, _, _, c = padded.shape
    ends = (a + stride * (out[0] - 1) + 1, b + stride * (out[1] - 1) + 1)
    return lax.slice(padded, (0, a, b, 0), (n, *ends, c), (1, stride, stride, 1))


def _out_shape(x: Array, stride: int) -> tuple[int, int]:
    return tuple(-(-size // stride) for size in x.shape[1:3])


def _same_padding(x: Array, w: Array, stride: int) -> list[tuple[int, int]]:
    return lax.padtype_to_pads(x.shape[1:3], w.shape[:2], (stride, stride), "SAME")


def _pad(x: Array, padding: list[tuple[int, int]], interior: int = 0) -> Array:
    """With zeros around it; made once, not anew for each tap."""
    spatial = [(before, after, interior) for before, after in padding]
    zero = jnp.zeros((), x.dtype)
    return lax.optimization_barrier(lax.pad(x, zero, [(0, 0, 0), *spatial, (0, 0, 0)]))
