"""Networks in Equinox: written for one example, mapped over the batch."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from experiments.zoo.entry import Entry, Model, example, filled


class CNN(eqx.Module):
    """A grouped and a depthwise convolution, channels first, flattened."""

    stem: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    grouped: eqx.nn.Conv2d
    depthwise: eqx.nn.Conv2d
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array, width: int = 16, classes: int = 10):
        keys = jax.random.split(key, 4)
        conv = eqx.nn.Conv2d
        self.stem = conv(3, width, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.GroupNorm(width, width)
        self.grouped = conv(width, width, 3, padding=1, groups=4, key=keys[1])
        self.depthwise = conv(width, width, 3, padding=1, groups=width, key=keys[2])
        self.head = eqx.nn.Linear(width * 4 * 4, classes, key=keys[3])

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.stem(x)))
        x = jax.nn.relu(self.depthwise(jax.nn.relu(self.grouped(x))))
        return self.head(eqx.nn.AvgPool2d(2, 2)(x).ravel())


class Attention(eqx.Module):
    """Self-attention over a sequence, with layer normalisation."""

    embed: eqx.nn.Linear
    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array, width: int = 16, classes: int = 5):
        keys = jax.random.split(key, 3)
        self.embed = eqx.nn.Linear(6, width, key=keys[0])
        self.norm = eqx.nn.LayerNorm(width)
        self.attention = eqx.nn.MultiheadAttention(4, width, key=keys[1])
        self.head = eqx.nn.Linear(width, classes, key=keys[2])

    def __call__(self, x):
        x = jax.vmap(self.embed)(x)
        y = jax.vmap(self.norm)(x)
        return self.head(jnp.tanh(x + self.attention(y, y, y)).mean(0))


def _mlp(key: jax.Array) -> eqx.Module:
    return eqx.nn.MLP(12, 5, 24, 2, key=key)


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _entry(
    name: str,
    make: Callable[[jax.Array], eqx.Module],
    shape: tuple[int, ...],
    *,
    floor: float,
) -> Entry:
    def build() -> Model:
        abstract = eqx.filter_eval_shape(make, jax.random.key(0))
        arrays, static = eqx.partition(abstract, _is_array)

        def fn(variables, x):
            return jax.vmap(eqx.combine(variables, static))(x)

        return Model(fn, filled(arrays, out_axis=0), example(shape))

    return Entry(name, "equinox", floor, build)


ENTRIES = (
    _entry("equinox-cnn", CNN, (4, 3, 8, 8), floor=0.88),
    _entry("equinox-mlp", _mlp, (4, 12), floor=0.86),
    _entry("equinox-attention", Attention, (4, 6, 6), floor=0.92),
)
