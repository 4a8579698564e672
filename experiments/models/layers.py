"""Layers that train fast on a CPU: convolutions and batch norm.

What autodiff makes of matrix products and of batch statistics passes over memory more
often than it has to. So each operation here has its derivative written by hand, with
the formula above it; those that shift images are in `depthwise` and `standard`.

Arrays are NHWC, kernels HWIO; padding is "SAME".
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from experiments.models.depthwise import depthwise
from experiments.models.shifted import same_padding
from experiments.models.standard import standard

_kernel_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_depthwise_init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")

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
        return standard(x, w, self.stride, same_padding(x, w, self.stride))


class Depthwise(nn.Module):
    """A k×k convolution of each channel by itself, without bias."""

    kernel: int = 3
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel, self.kernel, 1, x.shape[-1])
        w = self.param("kernel", _depthwise_init, shape)
        return depthwise(x, w, self.stride, same_padding(x, w, self.stride))


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
