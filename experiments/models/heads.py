"""Auxiliary classifiers; what belongs to them has a name that starts with `aux_`."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxprune.types import Predicate


class Head(nn.Module):
    """An auxiliary classifier: the mean over pixels, then a dense layer."""

    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))


def drop_heads(tree: Any) -> Any:
    """`tree` without what belongs to auxiliary classifiers.

    Args:
      tree: variables, or anything that holds dicts like them, such as an optimizer's
        state.
    """

    def without(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {k: drop_heads(v) for k, v in node.items() if not k.startswith("aux_")}

    return jax.tree.map(without, tree, is_leaf=lambda node: isinstance(node, dict))


def outside_heads(predicate: Predicate) -> Predicate:
    """`predicate`, but never a leaf of an auxiliary classifier."""
    return lambda path, leaf: "aux_" not in path and predicate(path, leaf)
