"""One model of the zoo: a pure function, its variables, an example."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxprune import paths


class Model(NamedTuple):
    """A model ready to run.

    fn: `fn(variables, x)` gives its outputs in evaluation.
    variables: all that it computes with, at random.
    x: a batch.
    train: where training renews leaves that evaluation may not read:
      `train(variables, x)` gives outputs and new leaves.
    """

    fn: Callable[..., Any]
    variables: Any
    x: Any
    train: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Entry:
    """A model that is built when asked for.

    Attributes:
      name: unique in the zoo.
      framework: linen, nnx, haiku, equinox or keras.
      floor: least share of the slots (leaf, axis, index) to be prunable, in [0, 1].
      build: makes the model.
      slow: takes more than a few seconds on a CPU.
    """

    name: str
    framework: str
    floor: float
    build: Callable[[], Model]
    slow: bool = False


def linen(
    name: str,
    module: nn.Module,
    shape: tuple[int, ...],
    *,
    floor: float,
    slow: bool = False,
    tokens: int = 0,
    trains: bool = False,
) -> Entry:
    """An entry for a Linen module.

    Args:
      name: as in `Entry`.
      module: called as `module(x)`, in training as `module(x, train=True)`.
      shape: of a batch.
      floor: as in `Entry`.
      slow: as in `Entry`.
      tokens: the batch holds integers below this, if it is not 0.
      trains: whether `train` can be asked for.
    """

    def train(variables: Any, x: Any) -> Any:
        return module.apply(variables, x, train=True, mutable=["batch_stats"])

    def build() -> Model:
        x = example(shape, tokens=tokens)
        variables = jax.eval_shape(module.init, jax.random.key(0), x)
        train_fn = train if trains else None
        return Model(module.apply, filled(variables), x, train_fn)

    return Entry(name, "linen", floor, build, slow)


def example(shape: tuple[int, ...], *, tokens: int = 0) -> np.ndarray:
    """A random batch: floats, or integers below `tokens`."""
    rng = np.random.default_rng(1)
    if tokens:
        return rng.integers(0, tokens, shape, dtype=np.int32)
    return rng.normal(size=shape).astype(np.float32)


def filled(abstract: Any, *, seed: int = 0, out_axis: int = -1) -> Any:
    """Random values for a tree of shapes, so that nothing is zero or one by default.

    Shifts and running means have both signs, variances and scales are positive, kernels
    keep the variance of their input, integers are 1. Nothing is compiled.

    Args:
      abstract: tree of arrays or `jax.ShapeDtypeStruct`s.
      seed: of the random numbers.
      out_axis: axis of a kernel that holds its outputs.
    """
    rng = np.random.default_rng(seed)

    def fill(path: jax.tree_util.KeyPath, leaf: Any) -> np.ndarray:
        name, shape, dtype = paths.name(path), leaf.shape, leaf.dtype
        if not np.issubdtype(dtype, np.floating):
            return np.ones(shape, dtype)
        if "var" in name.rsplit("/", 2)[-1] or "var_ema" in name:
            values = rng.uniform(0.5, 2.0, shape)
        elif name.rsplit("/", 1)[-1] in {"scale", "gamma"}:
            values = rng.uniform(0.5, 1.5, shape)
        elif paths.kernels(name, leaf):
            fan_in = max(1, int(np.prod(shape)) // shape[out_axis])
            values = rng.normal(scale=np.sqrt(2 / fan_in), size=shape)
        else:
            values = rng.normal(scale=0.3, size=shape)
        return values.astype(dtype)

    return jax.tree.map_with_path(fill, abstract)
