"""How much a weight matters: one array of weights and its update → scores.

A score takes the weights of a leaf and what the optimizer is about to add to them. It
gives non-negative numbers of the same shape; the smallest are pruned first. Any
function with this signature will do.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax.numpy as jnp

from jaxprune.types import Array

Score: TypeAlias = Callable[[Array, Array], Array]


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
