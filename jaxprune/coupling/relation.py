"""Slots, and the equalities that operations put on them.

Each index of each axis of each array is a slot. An operation adds *ties* (these two
slots live and die together), *freezes* (this slot must stay, and why) and *grids* (an
axis reshaped into several, of which one may lose slots).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from jaxprune.coupling.graph import Graph, Node, Value

Policy = Literal["inner", "outer"]


@dataclass(frozen=True, eq=False)
class Freeze:
    """Slots that must stay.

    Attributes:
      slots: which.
      why: in words.
      node: the operation that needs them, or None for the function's boundary.
      unknown: whether only for want of a rule.
    """

    slots: np.ndarray
    why: str
    node: Node | None = None
    unknown: bool = False


@dataclass(frozen=True, eq=False)
class Grid:
    """An axis that an operation reads as a grid of several axes, or the other way.

    Attributes:
      flat: slots of the one axis.
      axes: slots of the several; the product of their lengths is that of `flat`.
      node: the operation.
      merges: whether the several become one, not the one several.
    """

    flat: np.ndarray
    axes: tuple[np.ndarray, ...]
    node: Node
    merges: bool


@dataclass(eq=False)
class Relation:
    """What the operations of some functions demand of the slots of their arrays.

    Attributes:
      grouped: whether grouped convolutions lose channels within groups or whole groups.
      derivatives: whether the rules of custom derivatives have a say too.
      size: number of slots.
      ties: slots that live and die together, pairwise.
      freezes: slots that must stay.
      grids: axes reshaped into several.
      single: slots alone on their axis; an axis is never left empty.
    """

    grouped: Literal["within", "whole"] = "within"
    derivatives: bool = False
    size: int = 0
    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    single: list[np.ndarray] = field(default_factory=list)

    def fresh(self, length: int) -> np.ndarray:
        """New slots, tied to nothing."""
        slots = np.arange(self.size, self.size + length, dtype=np.int32)
        self.size += length
        if length == 1:
            self.single.append(slots)
        return slots

    def label(self, value: Value) -> None:
        """Gives `value` slots of its own, once."""
        if value.slots is None:
            value.slots = tuple(map(self.fresh, value.shape))

    def label_all(self, graph: Graph) -> None:
        """Gives every array of `graph`, bodies included, slots of its own."""
        for value in (*graph.inputs, *graph.constants):
            self.label(value)
        for node in graph.nodes:
            for body in node.bodies:
                self.label_all(body)
            for value in (*node.inputs, *node.outputs):
                self.label(value)
        for value in graph.outputs:
            self.label(value)

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """The slots of `a` and `b` live and die together, pairwise.

        A length of 1 against another is an implicit broadcast and ties nothing.
        """
        if len(a) == len(b):
            self.ties.append((a, b))
        elif 1 not in (len(a), len(b)):
            raise ValueError(f"cannot tie {len(a)} slots to {len(b)}")

    def tie_values(self, a: Value, b: Value) -> None:
        """Ties two arrays axis by axis; a scalar ties nothing."""
        if a.ndim == b.ndim:
            for left, right in zip(a.slots, b.slots, strict=True):
                self.tie(left, right)

    def tie_all(self, left: Sequence[Value], right: Sequence[Value]) -> None:
        """Ties two rows of arrays pairwise."""
        for a, b in zip(left, right, strict=True):
            self.tie_values(a, b)

    def tie_together(self, rows: np.ndarray) -> None:
        """All slots in a row of the matrix `rows` live and die together."""
        self.tie(np.repeat(rows[:, 0], rows.shape[1]), rows.ravel())

    def freeze(self, slots: np.ndarray, node: Node | None, why: str) -> None:
        """These slots must stay."""
        self.freezes.append(Freeze(slots, why, node))

    def freeze_node(self, node: Node, why: str, *, unknown: bool = False) -> None:
        """All slots of all arrays that `node` touches must stay."""
        for value in (*node.inputs, *node.outputs):
            for slots in value.slots:
                self.freezes.append(Freeze(slots, why, node, unknown))

    def merge(self, axes: Sequence[np.ndarray], flat: np.ndarray, node: Node) -> None:
        """`node` flattens `axes`, in row-major order, into `flat`."""
        self._grid(flat, axes, node, merges=True)

    def split(self, flat: np.ndarray, axes: Sequence[np.ndarray], node: Node) -> None:
        """`node` reads `flat` as `axes`, in row-major order."""
        self._grid(flat, axes, node, merges=False)

    def _grid(
        self, flat: np.ndarray, axes: Sequence[np.ndarray], node: Node, *, merges: bool
    ) -> None:
        axes = tuple(a for a in axes if len(a) > 1)
        if len(axes) == 1:
            self.tie(flat, axes[0])
        elif axes:
            self.grids.append(Grid(flat, axes, node, merges))
