"""One rule per primitive: what it ties, and how it runs at small sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax
import numpy as np

from jaxprune.coupling.graph import Graph, Node, Value
from jaxprune.coupling.relation import Relation


class Small(Protocol):
    """The program at small sizes, as a rewrite sees it."""

    def kept(self, value: Value, axis: int) -> np.ndarray:
        """Which dense indices of an axis stay, as bools."""

    def shape(self, value: Value) -> tuple[int, ...]:
        """The small shape."""

    def take(self, array: jax.Array, value: Value) -> jax.Array:
        """The kept part of `array`, which has the dense shape of `value`."""

    def run(self, graph: Graph, *arrays: jax.Array) -> list[jax.Array]:
        """Runs a body."""

    def derivative(self, node: Node) -> tuple[tuple[Graph, ...], "Small"]:
        """The rule of a custom derivative (`derivatives.derive`) and what runs it."""


Constrain = Callable[[Node, Relation], None]
Rewrite = Callable[..., Sequence[jax.Array]]


@dataclass(frozen=True)
class Rule:
    """How a primitive couples slots and how it runs when some are gone.

    Attributes:
      constrain: `constrain(node, relation)` adds ties, freezes and grids between the
        slots of `node.inputs` and `node.outputs`.
      rewrite: `rewrite(node, small, *arrays)` gives the outputs at small sizes; None
        where the primitive runs with the parameters it has.
    """

    constrain: Constrain
    rewrite: Rewrite | None = None


_RULES: dict[str, Rule] = {}


def register(
    *primitives: str, constrain: Constrain, rewrite: Rewrite | None = None
) -> None:
    """Teaches the tracer a primitive, or replaces what it knows.

    Args:
      *primitives: their names.
      constrain: see `Rule`. Slots that it neither ties nor freezes can be pruned
        freely: freeze whatever must not be.
      rewrite: see `Rule`.

    Example:
      >>> import jaxprune as jp
      >>> def along_rows(node, relation):
      ...     (x,), (y,) = node.inputs, node.outputs
      ...     relation.tie(x.slots[0], y.slots[0])
      ...     relation.freeze(x.slots[1], node, "mixed by my_mixer")
      ...     relation.freeze(y.slots[1], node, "mixed by my_mixer")
      >>> jp.coupling.register("my_mixer", constrain=along_rows)
    """
    for name in primitives:
        _RULES[name] = Rule(constrain, rewrite)


def constrain(graph: Graph, relation: Relation) -> None:
    """Adds to `relation` what every node of `graph`, bodies included, demands."""
    relation.label_all(graph)
    for node in graph.walk():
        rule = _RULES.get(node.name)
        if rule is None:
            relation.freeze_node(node, "no rule for this primitive", unknown=True)
        else:
            rule.constrain(node, relation)


def rewrite(node: Node, small: Small, *arrays: jax.Array) -> Sequence[jax.Array]:
    """The outputs of `node` at small sizes."""
    rule = _RULES.get(node.name)
    if rule is None or rule.rewrite is None:
        return node.bind(*arrays)
    return rule.rewrite(node, small, *arrays)
