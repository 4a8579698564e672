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
_PIXELS = 1 << 12  # of so many at a time the weight gradient is summed
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
    taps = _taps(k)
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


# --- Convolution of many channels ----------------------------------------------------
#
#     y[n, i, j, :]  = Σ_ab   x[n, s·i + a − p, s·j + b − p, :] · w[a, b]
#     dw[a, b]       = Σ_nij  x[n, s·i + a − p, s·j + b − p, :] ⊗ g[n, i, j, :]
#
# One matrix product for each tap. XLA's CPU backend takes four times as long for dw,
# and up to eighty times for images no larger than the kernel; otherwise its y and dx,
# a convolution of g, are faster.


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def of_many_channels(x: Array, w: Array, stride: int, padding: Padding) -> Array:
    """A convolution.

    Args:
      x: images, (N, H, W, I).
      w: kernels, (k, k, I, O).
      stride: 1 or more, for both directions.
      padding: before and after, for each direction.

    Returns:
      (N, H', W', O).
    """
    own = partial(convolution, stride=stride, padding=padding)
    if min(x.shape[1:3]) > w.shape[0]:
        return own(x, w)
    products = partial(_products, stride=stride, padding=padding)
    return lax.platform_dependent(x, w, cpu=products, default=own)


def _many_forward(x: Array, w: Array, stride: int, padding: Padding):
    return of_many_channels(x, w, stride, padding), (x, w)


def _many_backward(stride: int, padding: Padding, saved: tuple[Array, Array], g: Array):
    x, w = saved

    def on_cpu(x, w, g):
        own = min(x.shape[1:3]) > w.shape[0]
        convolve = convolution if own else _products
        _, vjp = jax.vjp(lambda x: convolve(x, w, stride, padding), x)
        return *vjp(g), _weight_gradient(x, w.shape[0], g, stride, padding)

    def elsewhere(x, w, g):
        return jax.vjp(lambda x, w: convolution(x, w, stride, padding), x, w)[1](g)

    return lax.platform_dependent(x, w, g, cpu=on_cpu, default=elsewhere)


of_many_channels.defvjp(_many_forward, _many_backward)


def of_linen(x, w, strides, padding, **options):
    """`of_many_channels` as `nn.Conv` calls it.

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
    return of_many_channels(x, w, strides[0], tuple(map(tuple, padding)))


def _products(x: Array, w: Array, stride: int, padding: Padding) -> Array:
    k = w.shape[0]
    padded = _pad(x, padding)
    out = tuple((size - k) // stride + 1 for size in padded.shape[1:3])
    return sum(_shifted(padded, a, b, stride, out) @ w[a, b] for a, b in _taps(k))


def _weight_gradient(
    x: Array, k: int, g: Array, stride: int, padding: Padding
) -> Array:
    """A scan over a few images at a time, which stay in the cache."""
    images, *out, outputs = g.shape
    inputs = x.shape[-1]
    taps = _taps(k)
    group = math.gcd(images, max(1, _PIXELS // math.prod(out)))

    def add(sums, group):
        x, g = group
        padded, pixels = _pad(x, padding), g.reshape(-1, outputs)

        def product(a, b):
            shifted = lax.optimization_barrier(_shifted(padded, a, b, stride, out))
            return shifted.reshape(-1, inputs).T @ pixels

        return sums + jnp.stack([product(*tap) for tap in taps]), None

    zeros = jnp.zeros((len(taps), inputs, outputs), g.dtype)
    grouped = [y.reshape(-1, group, *y.shape[1:]) for y in (x, g)]
    return lax.scan(add, zeros, grouped)[0].reshape(k, k, inputs, outputs)


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


def _sum_over_taps(w: Array, shifted: Callable[[int, int], Array]) -> Array:
    return sum(w[a, b] * shifted(a, b) for a, b in _taps(w.shape[0]))


def _taps(k: int) -> list[tuple[int, int]]:
    return list(itertools.product(range(k), repeat=2))


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
