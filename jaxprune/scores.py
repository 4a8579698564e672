"""How much a weight matters: one array of weights and its update → scores.

A score takes the weights of a leaf and what the optimizer is about to add to them. It
gives non-negative numbers of the same shape; the smallest are pruned first. Any
function with this signature will do; one that has to know which leaf it is given is
wrapped in `ByPath`.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp

from jaxprune.types import Array

Score: TypeAlias = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class ByPath:
    """A score that also looks at the path of the leaf.

    Attributes:
      function: from weights, updates and a path such as `"Dense_0/kernel"` to scores.

    Example:
      >>> score = ByPath(lambda w, u, path: jnp.abs(w) * (2 if path == "a" else 1))
      >>> each(score, ["a", "b"], [jnp.ones(1)] * 2, [jnp.zeros(1)] * 2)
      [Array([2.], dtype=float32), Array([1.], dtype=float32)]
    """

    function: Callable[[Array, Array, str], Array]

    def __call__(self, weights: Array, updates: Array, path: str = "") -> Array:
        """The scores of the leaf at `path`."""
        return self.function(weights, updates, path)


def each(
    score: Score, paths: list[str], weights: list[Array], updates: list[Array]
) -> list[Array]:
    """The scores of several leaves.

    Example:
      >>> each(magnitude, ["a"], [jnp.array([-2.0])], [jnp.zeros(1)])
      [Array([2.], dtype=float32)]
    """
    if isinstance(score, ByPath):
        return list(map(score, weights, updates, paths))
    return list(map(score, weights, updates))


def magnitude(weights: Array, updates: Array) -> Array:
    """|w|: small weights matter little.

    Args:
      weights: any shape.
      updates: not used.

    Returns:
      Scores, shaped like `weights`.

    Example:
      >>> magnitude(jnp.array([-2.0, 1.0]), jnp.zeros(2))
      Array([2., 1.], dtype=float32)
    """
    del updates
    return jnp.abs(weights)


def layer_normalised(weights: Array, updates: Array) -> Array:
    """|w| / rms(w), the root mean square taken over the leaf.

    Under one global threshold it makes layers comparable whose scale means nothing, as
    before batch normalisation.

    Args:
      weights: any shape.
      updates: not used.

    Returns:
      Scores, shaped like `weights`; 0 for a leaf of zeros.

    Example:
      >>> layer_normalised(jnp.array([-3.0, 3.0]), jnp.zeros(2))
      Array([1., 1.], dtype=float32)
    """
    del updates
    size = jnp.abs(weights)
    rms = jnp.sqrt(jnp.mean(jnp.square(size.astype(jnp.float32))))
    return size / jnp.where(rms > 0, rms, 1).astype(size.dtype)


def first_order(weights: Array, updates: Array) -> Array:
    """|w · u|: how much the loss would change, to first order, without the weight.

    Molchanov et al., *Importance estimation for neural network pruning* (2019), with
    the gradient. Here the update u stands for it: the same order under plain SGD,
    and the gradient averaged over steps under SGD with momentum.

    Args:
      weights: any shape.
      updates: what the optimizer adds to the weights, of the same shape.

    Returns:
      Scores, shaped like `weights`.

    Example:
      >>> first_order(jnp.array([-2.0, 1.0]), jnp.array([0.5, 0.0]))
      Array([1., 0.], dtype=float32)
    """
    return jnp.abs(weights * updates)


def random(seed: int) -> ByPath:
    """Uniform random numbers that depend on the seed, the leaf's path and its shape.

    They are the same at all times, so what is pruned once stays pruned: the baseline
    that any other score has to beat.

    Args:
      seed: any integer.

    Returns:
      A score.

    Example:
      >>> w = jnp.ones(3)
      >>> bool(jnp.all(random(0)(w, w, "a") == random(0)(2 * w, -w, "a")))
      True
      >>> bool(jnp.any(random(0)(w, w, "a") == random(0)(w, w, "b")))
      False
    """
    return ByPath(lambda weights, updates, path: noise(seed, path, weights.shape))


def noise(
    seed: int, path: str, shape: tuple[int, ...], cycle: Array | int = 0
) -> Array:
    """Uniform random numbers in [0, 1) for one leaf in one pruning cycle.

    Example:
      >>> noise(0, "a", (2,)) == noise(0, "a", (2,), cycle=1)
      Array([False, False], dtype=bool)
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(path.encode()))
    return jax.random.uniform(jax.random.fold_in(key, cycle), shape, jnp.float32)
