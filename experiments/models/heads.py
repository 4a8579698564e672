"""Auxiliary classifiers, as pytrees know them: names that start with `aux_`."""

from typing import Any

import jax

from jaxprune.types import Predicate


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
