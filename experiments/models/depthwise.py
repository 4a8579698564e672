"""Convolution of each channel by itself, with its derivatives.

    y[n, i, j, c]  = Σ_ab  w[a, b, c] · x[n, s·i + a − p, s·j + b − p, c]
    dw[a, b, c]    = Σ_nij g[n, i, j, c] · x[n, s·i + a − p, s·j + b − p, c]
    dx[n, u, v, c] = Σ_ab  w[a, b, c] · g[n, (u + p − a)/s, (v + p − b)/s, c]

s is the stride, p the padding before; x is zero outside the image, g where the index is
not whole. Each is a sum over the taps (a, b) of a shifted image.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from experiments.models.shifted import (
    NO_PADDING,
    Padding,
    convolution,
    images_from,
    pad,
    shifted,
    sum_over_taps,
    taps_of,
)

_UNROLLED = 16  # images whose products the weight gradient sums at once


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
        cpu=lambda x, w: sum_over_taps(pad(x, padding), w, stride),
        default=partial(convolution, stride=stride, padding=padding),
    )


def _depthwise_forward(x: Array, w: Array, stride: int, padding: Padding):
    padded = pad(x, padding)  # once, for the derivative too
    return depthwise(padded, w, stride, NO_PADDING), (padded, w)


def _depthwise_backward(
    stride: int, padding: Padding, saved: tuple[Array, Array], g: Array
):
    def on_cpu(padded, w, g):
        return (
            _depthwise_input_gradient(padded, w, g, stride, padding),
            _depthwise_weight_gradient(padded, w, g, stride),
        )

    def elsewhere(padded, w, g):
        _, vjp = jax.vjp(lambda x, w: convolution(x, w, stride, NO_PADDING), padded, w)
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
    return sum_over_taps(pad(g, around, stride - 1), w[::-1, ::-1], 1)


def _depthwise_weight_gradient(padded: Array, w: Array, g: Array, stride: int) -> Array:
    """A scan over a few images at a time, which stay in the cache.

    XLA reduces one output at a time, striding through memory. Products of images
    written out as a sum are vectorised along rows, columns and channels instead.
    """
    taps = taps_of(w.shape[0])
    group = math.gcd(len(g), _UNROLLED)

    def add(sums, start):
        some_x, some_g = (images_from(y, start, group) for y in (padded, g))

        def products(a, b):
            moved = shifted(some_x, a, b, stride, g.shape[1:3])
            return sum(map(jnp.multiply, jnp.unstack(some_g), jnp.unstack(moved)))

        return [s + products(*tap) for s, tap in zip(sums, taps, strict=True)], None

    zeros = [jnp.zeros(g.shape[1:], g.dtype)] * len(taps)
    sums, _ = lax.scan(add, zeros, jnp.arange(0, len(g), group))
    return jnp.stack([jnp.sum(s, axis=(0, 1)) for s in sums]).reshape(w.shape)


def _without(padded: Array, padding: Padding) -> Array:
    (top, bottom), (left, right) = padding
    _, rows, columns, _ = padded.shape
    return padded[:, top : rows - bottom, left : columns - right]
