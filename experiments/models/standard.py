"""Convolution in which every output sees all inputs, with its derivatives.

    y[n, i, j, o]  = Σ_abc  w[a, b, c, o] · x[n, s·i + a − p, s·j + b − p, c]
    dw[a, b, c, o] = Σ_nij  x[n, s·i + a − p, s·j + b − p, c] · g[n, i, j, o]

s is the stride, p the padding before; dx is a convolution of g with w mirrored. On a
CPU there is often something faster than XLA's own: for three colours shifted images,
summed one by one (eight times as fast); for 3×3 kernels with stride 1 `winograd` (up to
twice); else, for images no larger than the kernel, one matrix product for each tap (up
to eighty times), which dw always is (four times).
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from experiments.models import winograd
from experiments.models.shifted import (
    Padding,
    convolution,
    images_from,
    out_shape,
    pad,
    shifted,
    sum_over_taps,
    taps_of,
)

_FEW = 3  # channels: colours
_MANY = 1 << 9  # pixels of all images, from where transformed kernels pay
_PIXELS = 1 << 12  # of so many at a time the weight gradient is summed


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
    on_cpu, elsewhere = (
        partial(convolve, stride=stride, padding=padding)
        for convolve in (_for_cpu(x, w, stride), convolution)
    )
    return lax.platform_dependent(x, w, cpu=on_cpu, default=elsewhere)


def _standard_forward(x: Array, w: Array, stride: int, padding: Padding):
    return standard(x, w, stride, padding), (x, w)


def _standard_backward(
    stride: int, padding: Padding, saved: tuple[Array, Array], g: Array
):
    def on_cpu(x, w, g):
        convolve = _for_cpu(x, w, stride)
        if convolve is winograd.convolve:
            return winograd.gradients(x, w, g, padding)
        _, vjp = jax.vjp(lambda x: convolve(x, w, stride, padding), x)
        return *vjp(g), _weight_gradient(x, len(w), g, stride, padding)

    def elsewhere(x, w, g):
        return jax.vjp(lambda x, w: convolution(x, w, stride, padding), x, w)[1](g)

    return lax.platform_dependent(*saved, g, cpu=on_cpu, default=elsewhere)


standard.defvjp(_standard_forward, _standard_backward)


def _for_cpu(x: Array, w: Array, stride: int) -> Callable[..., Array]:
    """What computes y fastest."""
    if x.shape[-1] <= _FEW:
        return _shifted_products
    many = math.prod(x.shape[:3]) >= _MANY
    if len(w) == winograd.KERNEL and stride == 1 and many:
        return winograd.convolve
    return _matrix_products if min(x.shape[1:3]) <= len(w) else convolution


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
    channels = jnp.split(pad(x, padding), x.shape[-1], axis=-1)
    return sum(sum_over_taps(y, w[:, :, c], stride) for c, y in enumerate(channels))


def _matrix_products(x: Array, w: Array, stride: int, padding: Padding) -> Array:
    padded = pad(x, padding)
    out = out_shape(padded, len(w), stride)
    return sum(shifted(padded, a, b, stride, out) @ w[a, b] for a, b in taps_of(len(w)))


def _weight_gradient(
    x: Array, k: int, g: Array, stride: int, padding: Padding
) -> Array:
    """A scan over a few images at a time, which stay in the cache."""
    images, *out, outputs = g.shape
    inputs = x.shape[-1]
    taps = taps_of(k)
    group = math.gcd(images, max(1, _PIXELS // math.prod(out)))

    def add(sums, start):
        padded = pad(images_from(x, start, group), padding)
        pixels = images_from(g, start, group).reshape(-1, outputs)

        def product(a, b):
            moved = lax.optimization_barrier(shifted(padded, a, b, stride, out))
            return moved.reshape(-1, inputs).T @ pixels

        return sums + jnp.stack([product(*tap) for tap in taps]), None

    zeros = jnp.zeros((len(taps), inputs, outputs), g.dtype)
    sums, _ = lax.scan(add, zeros, jnp.arange(0, images, group))
    return sums.reshape(k, k, inputs, outputs)
