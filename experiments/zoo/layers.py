"""What the Linen networks of the zoo share; call inside a compact method."""

from collections.abc import Callable

import flax.linen as nn
import jax


def conv(
    x: jax.Array,
    width: int,
    size: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    bias: bool = False,
) -> jax.Array:
    kernel = (size, size)
    return nn.Conv(width, kernel, stride, feature_group_count=groups, use_bias=bias)(x)


def norm(x: jax.Array) -> jax.Array:
    return nn.BatchNorm(use_running_average=True)(x)


def conv_norm(
    x: jax.Array,
    width: int,
    size: int = 3,
    stride: int = 1,
    *,
    groups: int = 1,
    act: Callable[[jax.Array], jax.Array] = nn.relu,
) -> jax.Array:
    return act(norm(conv(x, width, size, stride, groups=groups)))


def identity(x: jax.Array) -> jax.Array:
    return x


def head(x: jax.Array, classes: int = 10) -> jax.Array:
    """Mean over space, then a linear classifier."""
    return nn.Dense(classes)(x.mean((1, 2)))


def squeeze_excite(x: jax.Array, ratio: int = 4) -> jax.Array:
    """Hu et al. 2018: each channel times a gate computed from all channel means."""
    gate = nn.relu(nn.Dense(x.shape[-1] // ratio)(x.mean((1, 2))))
    gate = nn.hard_sigmoid(nn.Dense(x.shape[-1])(gate))
    return x * gate[:, None, None, :]
