"""Where a program sums over slots: what each would take from the sum if it went.

Only there does removal change anything: every other operation treats a slot by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Any

import numpy as np

from jaxprune.constants.rules import LOOSE
from jaxprune.coupling.graph import Node


class Verdict(IntEnum):
    """What removing a group does to the function; the worst of its sites counts.

    Attributes:
      EXACT: nothing, zeros go from every sum.
      FOLDABLE: constants go, the same at every position: a bias makes up for them.
      MAP: constants go that differ from position to position, at the borders of padding
        for instance, or where there is no bias: a map added to the sum makes up.
      REFUSED: something goes that depends on the inputs, or in a way not understood.
    """

    EXACT = 0
    FOLDABLE = 1
    MAP = 2
    REFUSED = 3


@dataclass(frozen=True, eq=False)
class Entries:
    """What is known of the entries of an array.

    Attributes:
      value: the entries, zero where unknown.
      unknown: which are.
    """

    value: np.ndarray
    unknown: np.ndarray

    def slots(self, axis: int, inside: Sequence[int] = ()) -> "Slots":
        """Of each slot of an axis; uniform along all axes but those `inside`."""
        others = tuple(a for a in range(self.value.ndim) if a != axis)
        zero = ((self.value == 0) & ~self.unknown).all(axis=others)
        constant = ~self.unknown.any(axis=others)
        first = self.value
        for a in others:
            if a not in inside:
                first = first.take([0], axis=a)
        return Slots(zero, constant, constant & (self.value == first).all(axis=others))


@dataclass(frozen=True, eq=False)
class Slots:
    """What is known of the slots of an axis: bools, one for each.

    Attributes:
      zero: all entries are zero.
      constant: all entries are known.
      uniform: and the same at every position.
    """

    zero: np.ndarray
    constant: np.ndarray
    uniform: np.ndarray


def summed(coupling: Any, node: Node) -> np.ndarray:
    """The groups of the slots that `node` sums over, of all axes one after the other.

    0 for slots that matter to nobody: frozen ones, and those of grouped convolutions
    whose results go as well.
    """
    if node.bodies or node.name in LOOSE:
        return np.zeros(0, int)
    axes = _AXES.get(node.name)
    if axes is None:
        return _unread(coupling, node)
    labels = coupling.labels(node.inputs[0])
    found = [labels[axis] for axis in axes(node)]
    if node.name == "conv_general_dilated":
        found = [_without_own(coupling, node, found[0])]
    return np.concatenate([np.zeros(0, int), *found])


def verdicts(node: Node, given: Sequence[Entries]) -> np.ndarray:
    """The verdict on each slot of `summed`."""
    judge = _JUDGES.get(node.name)
    return np.array(int(Verdict.REFUSED)) if judge is None else judge(node, *given)


def correction(
    coupling: Any, node: Node, given: Sequence[Entries], keep: np.ndarray
) -> np.ndarray:
    """What removed slots add to the result of `node`, an array of its dense shape.

    As the operation is linear, this is the operation itself on the constants of the
    removed slots and on zeros elsewhere.
    """
    first, *others = [entries.value for entries in given]
    gone = np.zeros((1,) * first.ndim, bool)
    for axis in _AXES[node.name](node):
        gone = gone | _along(~keep[coupling.labels(node.inputs[0])[axis]], axis, first)
    constants = np.where(gone, first, np.zeros((), first.dtype))
    if not constants.any():
        return np.zeros(())
    result = np.asarray(node.bind(constants, *others)[0])
    for axis, labels in enumerate(coupling.labels(node.outputs[0])):
        result = np.where(_along(keep[labels], axis, result), result, 0)
    return result


def _along(flags: np.ndarray, axis: int, like: np.ndarray) -> np.ndarray:
    return flags.reshape(tuple(-1 if i == axis else 1 for i in range(like.ndim)))


def _verdicts(
    zero: np.ndarray, uniform: np.ndarray, constant: np.ndarray
) -> np.ndarray:
    return np.select(
        [zero, uniform & constant, constant],
        [int(Verdict.EXACT), int(Verdict.FOLDABLE), int(Verdict.MAP)],
        int(Verdict.REFUSED),
    )


def _dot(node: Node, left: Entries, right: Entries) -> np.ndarray:
    (sum_l, sum_r), _ = node.params["dimension_numbers"]
    found = []
    for a, b in zip(sum_l, sum_r, strict=True):
        x, y = left.slots(a, sum_l), right.slots(b, sum_r)
        uniform = x.uniform | y.uniform
        found.append(_verdicts(x.zero | y.zero, uniform, x.constant & y.constant))
    return np.concatenate(found)


def _convolution(node: Node, x: Entries, kernel: Entries) -> np.ndarray:
    params, numbers = node.params, node.params["dimension_numbers"]
    slots = x.slots(numbers.lhs_spec[1])
    if params["batch_group_count"] > 1:
        return np.where(slots.zero, int(Verdict.EXACT), int(Verdict.REFUSED))
    groups, (out_k, in_k) = params["feature_group_count"], numbers.rhs_spec[:2]

    def per_channel(flags: np.ndarray) -> np.ndarray:
        rows = np.moveaxis(flags, (out_k, in_k), (0, 1))
        rows = rows.reshape(groups, -1, *rows.shape[1:])
        return rows.all(axis=(1, *range(3, rows.ndim))).ravel()

    zero = per_channel((kernel.value == 0) & ~kernel.unknown)
    constant = per_channel(~kernel.unknown)
    padded = any(map(any, params["padding"])) or prod(params["lhs_dilation"]) > 1
    uniform = slots.uniform & (not padded)
    return _verdicts(slots.zero | zero, uniform, slots.constant & constant)


def _sum(node: Node, x: Entries) -> np.ndarray:
    axes = node.params["axes"]
    found = (x.slots(axis, axes) for axis in axes)
    return np.concatenate([_verdicts(s.zero, s.uniform, s.constant) for s in found])


def _without_own(coupling: Any, node: Node, labels: np.ndarray) -> np.ndarray:
    """0 for channels whose group of a grouped convolution goes when they do."""
    axis = node.params["dimension_numbers"].out_spec[1]
    groups = node.params["feature_group_count"]
    outs = coupling.labels(node.outputs[0])[axis].reshape(groups, 1, -1)
    own = (labels.reshape(groups, -1, 1) == outs).all(axis=2).ravel()
    return np.where(own, 0, labels)


def _unread(coupling: Any, node: Node) -> np.ndarray:
    """Any other operation: the slots that it takes and does not give back."""
    taken = [a for v in node.inputs for a in coupling.labels(v)]
    given_back = [a for v in node.outputs for a in coupling.labels(v)]
    taken, back = (np.unique(np.concatenate([[0], *s])) for s in (taken, given_back))
    return np.setdiff1d(taken, back)


_AXES = {
    "dot_general": lambda node: node.params["dimension_numbers"][0][0],
    "conv_general_dilated": lambda node: node.params["dimension_numbers"].lhs_spec[1:2],
    "reduce_sum": lambda node: node.params["axes"],
}
_JUDGES = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "reduce_sum": _sum,
}
