"""The fast layers against the plain formula, values and derivatives, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from experiments.models import layers
from experiments.models.depthwise import depthwise
from experiments.models.pooling import max_pool
from experiments.models.shifted import same_padding
from experiments.models.standard import of_linen, standard


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def plain_convolution(x, w, stride, groups=1):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def plain_pointwise(x, w):
    return jnp.einsum("nhwi,io->nhwo", x, w[0, 0])


def plain_batch_norm(x, scale, bias, epsilon, relu):
    mean, var = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    z = (x - mean) / jnp.sqrt(var + epsilon) * scale + bias
    return (jnp.maximum(z, 0) if relu else z), mean, var


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def assert_same_with_derivatives(fast, plain, *args):
    out, fast_vjp = jax.vjp(jax.jit(fast), *args)
    expected, plain_vjp = jax.vjp(plain, *args)
    cotangents = jax.tree.map(lambda y: normal(9, *y.shape), expected)
    close = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)
    jax.tree.map(close, out, expected)
    jax.tree.map(close, fast_vjp(cotangents), plain_vjp(cotangents))


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [
        ((2, 2), 3, 1, "SAME"),
        ((1, 1), 3, 1, "SAME"),
        ((3, 4), 5, 2, "SAME"),
        ((3, 3), 3, 1, "VALID"),
        ((4, 2), 3, 2, ((1, 1), (2, 2))),
        ((6, 5), 3, 1, "SAME"),
        ((8, 9), 3, 1, "SAME"),
        ((11, 8), 3, 1, ((0, 2), (3, 1))),
        ((8, 8), 3, 2, "SAME"),
        ((9, 9), 5, 1, "SAME"),
    ],
)
def test_standard_convolution(size, kernel, stride, padding):
    x, w = normal(0, 16, *size, 5), normal(1, kernel, kernel, 5, 3)
    numbers = ("NHWC", "HWIO", "NHWC")

    def by(convolve):
        return lambda x, w: convolve(
            x, w, (stride, stride), padding, dimension_numbers=numbers
        )

    assert_same_with_derivatives(by(of_linen), by(lax.conv_general_dilated), x, w)


@pytest.mark.parametrize(
    "options",
    [{"feature_group_count": 5}, {"rhs_dilation": (2, 2)}, {"strides": (1, 2)}],
)
def test_of_linen_refuses_what_it_cannot(options):
    x, w = normal(0, 1, 3, 3, 5), normal(1, 3, 3, 5, 3)
    strides = options.get("strides", (1, 1))
    options = {k: v for k, v in options.items() if k != "strides"}
    with pytest.raises(ValueError, match="one stride, no dilation and no groups"):
        of_linen(x, w, strides, "SAME", **options)


@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [
        ((6, 5), 3, 1),
        ((6, 7), 3, 2),
        ((2, 2), 3, 1),
        ((2, 2), 3, 2),
        ((1, 1), 3, 2),
        ((7, 6), 2, 2),
        ((7, 8), 1, 3),
    ],
)
def test_depthwise(size, kernel, stride):
    x, w = normal(0, 4, *size, 5), normal(1, kernel, kernel, 1, 5)
    assert_same_with_derivatives(
        lambda x, w: depthwise(x, w, stride, same_padding(x, w, stride)),
        lambda x, w: plain_convolution(x, w, stride, groups=5),
        x,
        w,
    )


@pytest.mark.parametrize(("size", "stride"), [((5, 6), 1), ((7, 6), 2)])
def test_convolution_of_few_channels(size, stride):
    x, w = normal(0, 2, *size, 3), normal(1, 3, 3, 3, 4)
    assert_same_with_derivatives(
        lambda x, w: standard(x, w, stride, same_padding(x, w, stride)),
        lambda x, w: plain_convolution(x, w, stride),
        x,
        w,
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "window"), [((4, 6), 2), ((7, 5), 3), ((3, 4), 2)])
def test_max_pool(size, window, padding):
    x = jnp.round(normal(0, 2, *size, 3))  # many are the same
    assert_same_with_derivatives(
        lambda x: max_pool(x, window, padding),
        lambda x: nn.max_pool(x, (window, window), (2, 2), padding),
        x,
    )


def test_pointwise():
    x, w = normal(0, 2, 3, 4, 5), normal(1, 1, 1, 5, 6)
    assert_same_with_derivatives(layers.pointwise, plain_pointwise, x, w)


@pytest.mark.parametrize("relu", [True, False])
def test_batch_norm(relu):
    x, scale, bias = 3 + normal(0, 4, 3, 2, 5), normal(1, 5), normal(2, 5)
    assert_same_with_derivatives(
        lambda *args: layers.batch_norm(*args, 1e-5, relu),
        lambda *args: plain_batch_norm(*args, 1e-5, relu),
        x,
        scale,
        bias,
    )
