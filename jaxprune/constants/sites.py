"""Where a program sums over slots: what each would take from the sum if it went.

Only there does removal change anything: every other operation treats a slot by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import prod
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxprune.constants.facts import LOOSE, Fact, Place
from jaxprune.coupling.graph import Node, Value
from jaxprune.types import Array


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
class Sum:
    """One axis of one operation that sums over slots.

    Attributes:
      node: the operation.
      place: where it is.
      labels: the group of each slot of the axis.
      verdicts: the verdict on each slot.
    """

    node: Node
    place: Place
    labels: np.ndarray
    verdicts: Array


def sums(coupling: Any, node: Node, given: Sequence[Fact], place: Place) -> list[Sum]:
    """The sums over slots of groups at `node`, each slot judged."""
    if node.bodies:
        return []
    judge = _JUDGES.get(node.name, _unread)
    return [
        Sum(node, place, labels, jnp.broadcast_to(verdicts, labels.shape))
        for labels, verdicts in judge(coupling, node, given)
        if labels.any()
    ]


def correction(
    coupling: Any, node: Node, given: Sequence[Fact], keep: Array
) -> Array | None:
    """What removed slots add to the result of `node`, an array of its dense shape.

    As the operation is linear, this is the operation itself on the constants of the
    removed slots and on zeros elsewhere. None where nothing constant is summed.
    """
    if node.name not in _SUMMED or any(fact.nothing for fact in given):
        return None
    first, *others = [fact.value for fact in given]
    axes = _SUMMED[node.name](node)
    gone = jnp.zeros((1,) * node.inputs[0].ndim, bool)
    for axis in axes:
        gone = gone | _along(
            ~keep[_labels(coupling, node.inputs[0], axis)], axis, first
        )
    (result,) = node.bind(jnp.where(gone, first, jnp.zeros((), first.dtype)), *others)
    for axis in range(result.ndim):
        stays = keep[_labels(coupling, node.outputs[0], axis)]
        result = jnp.where(_along(stays, axis, result), result, 0)
    return result


def _labels(coupling: Any, value: Value, axis: int) -> np.ndarray:
    return coupling.labels(value)[axis]


def _along(flags: Array, axis: int, like: Array) -> Array:
    return flags.reshape(tuple(-1 if i == axis else 1 for i in range(like.ndim)))


@dataclass(frozen=True, eq=False)
class _Slots:
    """What is known of the slots of an axis: bools, one for each."""

    zero: Array
    constant: Array
    uniform: Array


def _slots(fact: Fact, value: Value, axis: int, inside: Sequence[int]) -> _Slots:
    """Of each slot: all zero, all known, the same along all axes but those `inside`."""
    if fact.nothing:
        no = jnp.zeros(value.shape[axis], bool)
        return _Slots(no, no, no)
    others = tuple(a for a in range(value.ndim) if a != axis)
    zero = jnp.all(fact.zero(), axis=others)
    constant = ~jnp.any(fact.mask(), axis=others)
    outside = tuple(a for a in others if a not in inside)
    same = (
        fact.value
        == fact.value[
            tuple(
                slice(0, 1) if a in outside else slice(None) for a in range(value.ndim)
            )
        ]
    )
    return _Slots(zero, constant, constant & jnp.all(same, axis=others))


def _verdicts(zero: Array, uniform: Array, constant: Array) -> Array:
    return jnp.where(
        zero,
        int(Verdict.EXACT),
        jnp.where(
            uniform & constant,
            int(Verdict.FOLDABLE),
            jnp.where(constant, int(Verdict.MAP), int(Verdict.REFUSED)),
        ),
    )


def _dot(coupling: Any, node: Node, given: Sequence[Fact]) -> list:
    (sum_l, sum_r), _ = node.params["dimension_numbers"]
    results = []
    for a, b in zip(sum_l, sum_r, strict=True):
        left = _slots(given[0], node.inputs[0], a, sum_l)
        right = _slots(given[1], node.inputs[1], b, sum_r)
        verdicts = _verdicts(
            left.zero | right.zero,
            left.uniform | right.uniform,
            left.constant & right.constant,
        )
        results.append((_labels(coupling, node.inputs[0], a), verdicts))
    return results


def _convolution(coupling: Any, node: Node, given: Sequence[Fact]) -> list:
    (x, kernel), (y,), params = node.inputs, node.outputs, node.params
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    in_x, (out_k, in_k) = numbers.lhs_spec[1], numbers.rhs_spec[:2]
    labels = _labels(coupling, x, in_x)
    if params["batch_group_count"] > 1:
        return [(labels, jnp.array(int(Verdict.REFUSED)))]
    left = _slots(given[0], x, in_x, ())
    zero, constant = _kernel(given[1], kernel, out_k, in_k, groups)
    padded = any(map(any, params["padding"])) or prod(params["lhs_dilation"]) > 1
    verdicts = _verdicts(
        left.zero | zero,
        left.uniform & (not padded),
        left.constant & constant,
    )
    outs = _labels(coupling, y, numbers.out_spec[1]).reshape(groups, -1)
    leaves_too = (labels.reshape(groups, -1, 1) == outs[:, None]).all(axis=2).ravel()
    return [(np.where(leaves_too, 0, labels), verdicts)]


def _kernel(
    fact: Fact, kernel: Value, out_k: int, in_k: int, groups: int
) -> tuple[Array, Array]:
    """For each input channel, whether its weights are all zero, and all known."""
    if fact.nothing:
        no = jnp.zeros(groups * kernel.shape[in_k], bool)
        return no, no

    def per_channel(flags: Array) -> Array:
        rows = jnp.moveaxis(flags, (out_k, in_k), (0, 1))
        rows = rows.reshape(groups, -1, kernel.shape[in_k], prod(rows.shape[2:]))
        return jnp.all(rows, axis=(1, 3)).ravel()

    return per_channel(fact.zero()), per_channel(~fact.mask())


def _sum(coupling: Any, node: Node, given: Sequence[Fact]) -> list:
    (x,), axes = node.inputs, node.params["axes"]
    results = []
    for axis in axes:
        slots = _slots(given[0], x, axis, axes)
        verdicts = _verdicts(slots.zero, slots.uniform, slots.constant)
        results.append((_labels(coupling, x, axis), verdicts))
    return results


def _unread(coupling: Any, node: Node, given: Sequence[Fact]) -> list:
    """Any other operation: refused for slots that it takes and does not give back."""
    if node.name in LOOSE:
        return []
    given_back = [a for v in node.outputs for a in coupling.labels(v)]
    back = np.concatenate([np.zeros(1, int), *given_back])
    refused = jnp.array(int(Verdict.REFUSED))
    return [
        (np.where(np.isin(labels, back), 0, labels), refused)
        for value in node.inputs
        for labels in coupling.labels(value)
    ]


_JUDGES = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "reduce_sum": _sum,
}

_SUMMED = {
    "dot_general": lambda node: node.params["dimension_numbers"][0][0],
    "conv_general_dilated": lambda node: node.params["dimension_numbers"].lhs_spec[1:2],
    "reduce_sum": lambda node: node.params["axes"],
}
