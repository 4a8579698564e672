"""Primitives that move entries about: transpose, reshape, concatenate, pad, slice."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.coupling.graph import Node, Value
from jaxprune.coupling.registry import Small, register
from jaxprune.coupling.relation import Relation


def _transpose(node: Node, relation: Relation) -> None:
    (x,), (y,) = node.inputs, node.outputs
    for axis, slots in zip(node.params["permutation"], y.slots, strict=True):
        relation.tie(x.slots[axis], slots)


def _reverse(node: Node, relation: Relation) -> None:
    (x,), (y,) = node.inputs, node.outputs
    for axis, slots in enumerate(y.slots):
        backwards = axis in node.params["dimensions"]
        relation.tie(x.slots[axis][::-1] if backwards else x.slots[axis], slots)


def _squeeze(node: Node, relation: Relation) -> None:
    (x,), (y,) = node.inputs, node.outputs
    gone = node.params["dimensions"]
    left = [slots for axis, slots in enumerate(x.slots) if axis not in gone]
    for a, b in zip(left, y.slots, strict=True):
        relation.tie(a, b)


def _broadcast(node: Node, relation: Relation) -> None:
    """New axes and stretched ones are free: what they meet later captures them."""
    x, (y,) = node.inputs[0], node.outputs
    for axis, to in enumerate(node.params["broadcast_dimensions"]):
        relation.tie(x.slots[axis], y.slots[to])


def _broadcast_small(node: Node, small: Small, x: jax.Array, *rest: jax.Array):
    return node.bind(x, *rest, shape=small.shape(node.outputs[0]))


def _reshape(node: Node, relation: Relation) -> None:
    """Axes that merge or split form grids; many to many goes by way of one axis."""
    x, (y,) = node.inputs[0], node.outputs
    order = node.params.get("dimensions") or range(x.ndim)
    for left, right in _blocks([x.slots[a] for a in order], y.slots):
        if len(right) == 1:
            relation.merge(left, right[0], node)
        elif len(left) == 1:
            relation.split(left[0], right, node)
        else:
            flat = relation.fresh(int(np.prod([len(a) for a in left])))
            relation.merge(left, flat, node)
            relation.split(flat, right, node)


def _blocks(left: Sequence[np.ndarray], right: Sequence[np.ndarray]):
    """The shortest runs of axes, left and right, that hold equally many entries."""
    left, right = ([a for a in side if len(a) != 1] for side in (left, right))
    while left and right:
        i, j = 1, 1
        n, m = len(left[0]), len(right[0])
        while n != m:
            if n < m:
                n, i = n * len(left[i]), i + 1
            else:
                m, j = m * len(right[j]), j + 1
        yield left[:i], right[:j]
        left, right = left[i:], right[j:]


def _reshape_small(node: Node, small: Small, x: jax.Array, *rest: jax.Array):
    return node.bind(x, *rest, new_sizes=small.shape(node.outputs[0]))


def _tile(node: Node, relation: Relation) -> None:
    (x,), (y,) = node.inputs, node.outputs
    for axis, (a, b) in enumerate(zip(x.slots, y.slots, strict=True)):
        relation.tie(a if len(a) == 1 else np.tile(a, node.params["reps"][axis]), b)


def _tile_small(node: Node, small: Small, x: jax.Array):
    sizes = small.shape(node.outputs[0])
    return node.bind(x, reps=tuple(n // m for n, m in zip(sizes, x.shape, strict=True)))


def _concatenate(node: Node, relation: Relation) -> None:
    (y,), along, start = node.outputs, node.params["dimension"], 0
    for x in node.inputs:
        stop = start + x.shape[along]
        for axis, slots in enumerate(y.slots):
            segment = slots[start:stop] if axis == along else slots
            relation.tie(x.slots[axis], segment)
        start = stop


def _split(node: Node, relation: Relation) -> None:
    (x,), along, start = node.inputs, node.params["axis"], 0
    for y in node.outputs:
        stop = start + y.shape[along]
        for axis, slots in enumerate(x.slots):
            segment = slots[start:stop] if axis == along else slots
            relation.tie(segment, y.slots[axis])
        start = stop


def _split_small(node: Node, small: Small, x: jax.Array):
    along = node.params["axis"]
    return node.bind(x, sizes=tuple(small.shape(y)[along] for y in node.outputs))


def _stack(node: Node, relation: Relation) -> None:
    _stacked(node, relation, node.outputs[0], node.inputs)


def _unstack(node: Node, relation: Relation) -> None:
    _stacked(node, relation, node.inputs[0], node.outputs)


def _stacked(
    node: Node, relation: Relation, whole: Value, parts: Sequence[Value]
) -> None:
    along = node.params["axis"]
    relation.freeze(whole.slots[along], node, "stacked along")
    slots = [s for axis, s in enumerate(whole.slots) if axis != along]
    for part in parts:
        for a, b in zip(slots, part.slots, strict=True):
            relation.tie(a, b)


def _slice(node: Node, relation: Relation) -> None:
    (x,), (y,) = node.inputs, node.outputs
    for axis, slots in enumerate(y.slots):
        relation.tie(x.slots[axis][_chosen(node, axis)], slots)


def _chosen(node: Node, axis: int) -> slice:
    params = node.params
    step = 1 if params["strides"] is None else params["strides"][axis]
    return slice(params["start_indices"][axis], params["limit_indices"][axis], step)


def _slice_small(node: Node, small: Small, x: jax.Array):
    """Picks, among the entries that are left, the ones the dense slice picks."""
    (value,) = node.inputs
    for axis, size in enumerate(value.shape):
        here = np.zeros(size, bool)
        here[_chosen(node, axis)] = True
        positions = np.flatnonzero(here[small.kept(value, axis)])
        x = _pick(x, positions, axis)
    return [x]


def _pick(x: jax.Array, positions: np.ndarray, axis: int) -> jax.Array:
    if len(positions) == x.shape[axis]:
        return x
    steps = set(np.diff(positions).tolist()) or {1}
    if len(positions) and len(steps) == 1:
        start, stop = int(positions[0]), int(positions[-1]) + 1
        return lax.slice_in_dim(x, start, stop, steps.pop(), axis)
    return jnp.take(x, positions, axis, mode="clip")


def _pad(node: Node, relation: Relation) -> None:
    """Padding is free, as a new axis is; with dilation the axis is needed whole."""
    x, (y,) = node.inputs[0], node.outputs
    for axis, (low, high, between) in enumerate(node.params["padding_config"]):
        if between:
            relation.freeze(x.slots[axis], node, "dilated")
            relation.freeze(y.slots[axis], node, "dilated")
        else:
            a = _trim(x.slots[axis], -low, -high)
            relation.tie(a, _trim(y.slots[axis], low, high))


def _trim(slots: np.ndarray, low: int, high: int) -> np.ndarray:
    return slots[max(low, 0) : len(slots) - max(high, 0)]


def _pad_small(node: Node, small: Small, x: jax.Array, fill: jax.Array):
    """Each border: as many entries as are kept of what it adds or cuts off."""
    (value, _), (output,) = node.inputs, node.outputs

    def border(count: int, axis: int, end: slice) -> int:
        whose = output if count > 0 else value
        return int(np.sign(count)) * int(small.kept(whose, axis)[end].sum())

    config = []
    for axis, (low, high, between) in enumerate(node.params["padding_config"]):
        first = border(low, axis, slice(abs(low)))
        last = border(high, axis, slice(-abs(high), None)) if high else 0
        config.append((first, last, between))
    return node.bind(x, fill, padding_config=tuple(config))


register("transpose", constrain=_transpose)
register("rev", constrain=_reverse)
register("squeeze", constrain=_squeeze)
register("broadcast_in_dim", constrain=_broadcast, rewrite=_broadcast_small)
register("reshape", constrain=_reshape, rewrite=_reshape_small)
register("tile", constrain=_tile, rewrite=_tile_small)
register("concatenate", constrain=_concatenate)
register("stack", constrain=_stack)
register("unstack", constrain=_unstack)
register("split", constrain=_split, rewrite=_split_small)
register("slice", constrain=_slice, rewrite=_slice_small)
register("pad", constrain=_pad, rewrite=_pad_small)
