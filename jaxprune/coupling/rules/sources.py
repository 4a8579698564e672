"""Arrays out of nothing: counting and random numbers.

They are made at dense size and sliced, so that a slot keeps the number it had.
"""

import jax

from jaxprune.coupling.graph import Node
from jaxprune.coupling.registry import Small, register
from jaxprune.coupling.relation import Relation


def _iota(node: Node, relation: Relation) -> None:
    """Free on every axis: what it meets captures it."""


def _random_bits(node: Node, relation: Relation) -> None:
    (key,), (bits,) = node.inputs, node.outputs
    for slots in (*key.slots, *bits.slots[: key.ndim]):
        relation.freeze(slots, node, "a batch of random keys")


def _dense_then_slice(node: Node, small: Small, *arrays: jax.Array):
    made = node.bind(*arrays)
    return [small.take(x, y) for x, y in zip(made, node.outputs, strict=True)]


def _random_state(node: Node, relation: Relation) -> None:
    relation.freeze_node(node, "random state")


register("iota", constrain=_iota, rewrite=_dense_then_slice)
register("random_bits", constrain=_random_bits, rewrite=_dense_then_slice)
register(
    *[
        "random_clone",
        "random_fold_in",
        "random_gamma",
        "random_seed",
        "random_split",
        "random_unwrap",
        "random_wrap",
        "threefry2x32",
    ],
    constrain=_random_state,
)
