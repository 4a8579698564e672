"""Layers that train fast on a CPU: depthwise and pointwise convolution, batch norm.

XLA's CPU backend has no fast depthwise convolution, and what autodiff makes of shifted
slices and of batch statistics passes over memory many times. So each operation here has
its derivative written by hand, with the formula above it. On other platforms
convolutions are XLA's own, which is right there.

Arrays are NHWC, kernels HWIO; padding is "SAME".
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

_NHWC = ("NHWC", "HWIO", "NHWC")
_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_depthwise_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


# Products summed in one expression by the depthwise weight gradient.
_UNROLLED = 32

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
        default=partial(_depthwise_conv, stride=stride),
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


def _depthwise_conv(x: Array, w: Array, stride: int) -> Array:
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        dimension_numbers=_NHWC,
        feature_group_count=x.shape[-1],
    )


def _depthwise_conv_vjp(x: Array, w: Array, g: Array, stride: int):
    return jax.vjp(partial(_depthwise_conv, stride=stride), x, w)[1](g)


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
        padded = lax.optimization_barrier(_pad(x, padding))

        def products(a, b):
            shifted = _shifted(padded, a, b, stride, (rows, columns))
            return sum(jnp.unstack((g * shifted).reshape(-1, columns, channels)))

        return [s + products(*tap) for s, tap in zip(sums, taps, strict=True)], None

    zeros = [jnp.zeros((columns, channels), g.dtype)] * len(taps)
    grouped = [y.reshape(-1, group, *y.shape[1:]) for y in (x, g)]
    sums, _ = lax.scan(add, zeros, grouped)
    return jnp.stack([jnp.sum(s, axis=0) for s in sums]).reshape(w.shape)


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
    spatial = [(before, after, interior) for before, after in padding]
    return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spatial, (0, 0, 0)])


# --- Pointwise convolution -----------------------------------------------------------
#
#     y = x W        dx = g Wᵀ        dW = xᵀ g        x: pixels × inputs
#
# Autodiff would have dWᵀ = gᵀ x, and XLA then write g transposed.


@jax.custom_vjp
def pointwise(x: Array, w: Array) -> Array:
    """A 1×1 convolution: the same matrix product for every pixel.

    Args:
      x: images, (N, H, W, I).
      w: (1, 1, I, O).

    Returns:
      (N, H, W, O).
    """
    return x @ w[0, 0]


def _pointwise_forward(x: Array, w: Array):
    return pointwise(x, w), (x, w)


def _pointwise_backward(saved: tuple[Array, Array], g: Array):
    x, w = saved
    pixels = g.reshape(-1, g.shape[-1])
    dw = x.reshape(-1, x.shape[-1]).T @ pixels
    return g @ w[0, 0].T, dw.reshape(w.shape)


pointwise.defvjp(_pointwise_forward, _pointwise_backward)


# --- Batch norm and ReLU -------------------------------------------------------------
#
#     μ = mean x    v = mean x² − μ²    r = 1/√(v + ε)    z = γ·r·(x − μ) + β
#     y = max(z, 0), or z itself
#
# With g' = g where z > 0, else 0 (or g itself), M values a channel, and the sums
# b = Σ g', s = Σ g'·x:
#
#     dβ = b        dγ = r·(s − μ·b)        dx = γ·r·(g' − b/M − r²·(s − μ·b)/M·(x − μ))
#
# Cotangents of the statistics themselves add  ḡ_μ/M + 2·ḡ_v/M·(x − μ). Everything but
# g' and x is one number a channel, so dx takes one pass: dx = p·g' + q·x + t.


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def batch_norm(x: Array, scale: Array, bias: Array, epsilon: float, relu: bool):
    """Normalises each channel by the statistics of the batch.

    Args:
      x: (…, C).
      scale: γ, (C,).
      bias: β, (C,).
      epsilon: added to the variance.
      relu: whether max(·, 0) follows.

    Returns:
      y like x, and the mean and the (biased) variance, (C,) each.
    """
    mean, var = _moments(x)
    z = _normalise(x, scale, bias, mean, lax.rsqrt(var + epsilon))
    return (nn.relu(z) if relu else z), mean, var


def _batch_norm_forward(x, scale, bias, epsilon, relu):
    y, mean, var = batch_norm(x, scale, bias, epsilon, relu)
    return (y, mean, var), (x, scale, bias, mean, lax.rsqrt(var + epsilon))


def _batch_norm_backward(epsilon, relu, saved, cotangents):
    del epsilon
    x, scale, bias, mean, r = saved
    g, g_mean, g_var = cotangents
    if relu:
        g = jnp.where(_normalise(x, scale, bias, mean, r) > 0, g, 0)
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    b = jnp.sum(g, axes)
    d_scale = r * (jnp.sum(g * x, axes) - mean * b)
    p = scale * r
    q = (2 * g_var - p * r * d_scale) / count
    t = (g_mean - p * b) / count - q * mean
    # One number a channel, not recomputed at every pixel.
    p, q, t = lax.optimization_barrier((p, q, t))
    return p * g + q * x + t, d_scale, b


batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def _normalise(x, scale, bias, mean, r):
    a = scale * r
    return x * a + (bias - mean * a)


def _moments(x: Array) -> tuple[Array, Array]:
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    return mean, jnp.maximum(jnp.mean(x * x, axes) - mean * mean, 0)


# --- Modules -------------------------------------------------------------------------


class Conv(nn.Module):
    """A k×k convolution without bias."""

    features: int
    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        w = self.param("kernel", _kernel_init, shape)
        strides = (self.stride, self.stride)
        return lax.conv_general_dilated(x, w, strides, "SAME", dimension_numbers=_NHWC)


class Depthwise(nn.Module):
    """A k×k convolution of each channel by itself, without bias."""

    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, 1, x.shape[-1])
        return depthwise(x, self.param("kernel", _depthwise_init, shape), self.stride)


class Pointwise(nn.Module):
    """A 1×1 convolution without bias."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (1, 1, x.shape[-1], self.features)
        return pointwise(x, self.param("kernel", _kernel_init, shape))


class BatchNorm(nn.Module):
    """Batch norm, with the ReLU after it where `relu` is set.

    In training the running statistics move by 1 − `momentum` towards the batch's; in
    evaluation they are used.
    """

    relu: bool = True
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        var = self.variable("batch_stats", "var", jnp.ones, channels)
        if not train:
            r = lax.rsqrt(var.value + self.epsilon)
            z = _normalise(x, scale, bias, mean.value, r)
            return nn.relu(z) if self.relu else z
        y, batch_mean, batch_var = batch_norm(x, scale, bias, self.epsilon, self.relu)
        if not self.is_initializing():
            keep = self.momentum
            mean.value = keep * mean.value + (1 - keep) * batch_mean
            var.value = keep * var.value + (1 - keep) * batch_var
        return y
