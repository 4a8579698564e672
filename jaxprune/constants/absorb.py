"""Which bias can make up for a constant that goes from a sum.

From the sum the search goes on to the addition of a leaf, or the subtraction of one
(the mean of a batch normalisation), through operations that only move entries and
through other additions, as long as nothing else looks at the sum on its way.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxprune.coupling.graph import Graph, Node, Value

_CASTS = frozenset({"convert_element_type", "copy", "copy_p", "reduce_precision"})
_SHAPES = frozenset(
    {"reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims"}
)
_FUNCTIONS = frozenset({"custom_jvp_call", "custom_vjp_call", "remat2", "checkpoint"})
_TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Bias:
    """A leaf that is added to a sum.

    Attributes:
      path: of the leaf.
      sign: +1 where it is added, −1 where it is subtracted.
      steps: what happens to the sum before.
      spread: how the leaf takes the shape of the sum.
    """

    path: str
    sign: int
    steps: tuple[Node, ...]
    spread: tuple[Node, ...]

    def change(self, constant: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """What to add to the leaf, of this shape, for a `constant` gone from the sum.

        None where the leaf has one entry for places that need different ones.
        """
        constant = _through(self.steps, self.sign * constant)
        entries = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape)
        entries = np.broadcast_to(_through(self.spread, entries), constant.shape)
        change = np.zeros(entries.max(initial=0) + 1, constant.dtype)
        change[entries.ravel()] = constant.ravel()
        largest = np.abs(constant).max(initial=0)
        if np.abs(change[entries] - constant).max(initial=0) > _TOLERANCE * largest:
            return None
        return change.reshape(shape)


class Flow:
    """Who makes and who takes each array, calls with one body seen through."""

    def __init__(self, graph: Graph, paths: Sequence[str]):
        self.paths = dict(zip(graph.inputs, paths, strict=False))
        self.makers: dict[Value, Node] = {}
        self.takers: dict[Value, list[Node | None]] = defaultdict(list)
        self._same: dict[Value, Value] = {}
        self._read(graph)
        for value in graph.outputs:
            self.takers[self._one(value)].append(None)

    def bias(self, total: Value) -> Bias | None:
        """The leaf that is added to `total`, if there is one that nothing else uses."""
        total, sign, steps = self._one(total), 1, []
        while True:
            if len(self.takers[total]) != 1 or (node := self.takers[total][0]) is None:
                return None
            if node.name in ("add", "add_any", "sub"):
                first, second = map(self._one, node.inputs)
                if first is second:
                    return None
                leaf = self._leaf(second if first is total else first)
                if node.name == "sub" and (leaf or second is total):
                    sign = -sign
                if leaf:
                    return Bias(leaf[0], sign, tuple(steps), leaf[1])
            elif node.name in _CASTS | _SHAPES:
                steps.append(node)
            else:
                return None
            total = self._one(node.outputs[0])

    def leaves(self, node: Node) -> list[str]:
        """Leaves that `node` takes as they are, or moved about."""
        found = (self._leaf(self._one(v), shared=True) for v in node.inputs)
        return [leaf[0] for leaf in found if leaf]

    def _read(self, graph: Graph) -> None:
        for node in graph.nodes:
            if node.name in _FUNCTIONS:
                body = node.bodies[0]
                self._same.update(zip(body.inputs, node.inputs, strict=True))
                self._read(body)
                self._same.update(zip(node.outputs, body.outputs, strict=True))
                continue
            if node.name == "cond":
                for body in node.bodies:
                    self._same.update(zip(body.inputs, node.inputs[1:], strict=True))
                    self._read(body)
                    self._same.update(self._results(body, node))
            else:
                for body in node.bodies:
                    self._read(body)
                    for value in body.outputs:
                        self.takers[self._one(value)].append(None)
            for value in () if node.name == "cond" else node.inputs:
                self.takers[self._one(value)].append(node)
            for value in node.outputs:
                self.makers[value] = node

    def _results(self, branch: Graph, node: Node) -> Any:
        """A branch's own results are the node's, and go on from there; others end."""
        for inner, outer in zip(branch.outputs, node.outputs, strict=True):
            one = self._one(inner)
            made_here = inner in self.makers and branch.outputs.count(inner) == 1
            if made_here and not self.takers[one]:
                yield inner, outer
            else:
                self.takers[one].append(None)

    def _one(self, value: Value) -> Value:
        while value in self._same:
            value = self._same[value]
        return value

    def _leaf(
        self, value: Value, shared: bool = False
    ) -> tuple[str, tuple[Node, ...]] | None:
        """The leaf whose entries `value` holds, and how they got there."""
        spread: list[Node] = []
        while shared or len(self.takers[value]) == 1:
            if value in self.paths:
                return self.paths[value], tuple(reversed(spread))
            node = self.makers.get(value)
            if node is None or node.name not in _CASTS | _SHAPES:
                return None
            spread.append(node)
            value = self._one(node.inputs[0])
        return None


def _through(nodes: Sequence[Node], array: np.ndarray) -> np.ndarray:
    """Moves entries as `nodes` do; casts are left out."""
    for node in nodes:
        if node.name in _SHAPES:
            array = np.asarray(node.bind(array)[0])
    return array
