"""Gather, scatter, dynamic slices: axes taken whole pass through, others are needed."""

import jax

from jaxprune.coupling.graph import Node
from jaxprune.coupling.registry import Small, register
from jaxprune.coupling.relation import Relation

_INDEXED = "indexed by a value"
_ADDING = "scatter-add", "scatter-sub"
_OVERWRITING = "scatter", "scatter-mul", "scatter-min", "scatter-max"


def _pass_or_freeze(node, relation, a, b) -> None:
    """Ties two axes of the same length; freezes them where one is a part."""
    if len(a) == len(b):
        relation.tie(a, b)
    else:
        relation.freeze(a, node, _INDEXED)
        relation.freeze(b, node, _INDEXED)


def _gather(node: Node, relation: Relation) -> None:
    (x, indices), (y,) = node.inputs, node.outputs
    numbers = node.params["dimension_numbers"]
    inside = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    window = [a for a in range(x.ndim) if a not in inside]
    for axis, to in zip(window, numbers.offset_dims, strict=True):
        _pass_or_freeze(node, relation, x.slots[axis], y.slots[to])
    for axis in numbers.collapsed_slice_dims:
        relation.freeze(x.slots[axis], node, _INDEXED)
    for axis, to in zip(
        numbers.operand_batching_dims,
        numbers.start_indices_batching_dims,
        strict=True,
    ):
        relation.tie(x.slots[axis], indices.slots[to])
    batch = [a for a in range(y.ndim) if a not in numbers.offset_dims]
    for axis, to in enumerate(batch):
        relation.tie(indices.slots[axis], y.slots[to])
    relation.freeze(indices.slots[-1], node, "an index vector")


def _gather_small(node: Node, small: Small, x: jax.Array, indices: jax.Array):
    (value, _), sizes = node.inputs, node.params["slice_sizes"]
    fitted = _fit(sizes, value.shape, small.shape(value))
    return node.bind(x, indices, slice_sizes=fitted)


def _fit(sizes, dense, small) -> tuple[int, ...]:
    """Sizes that span a dense axis span the small one."""
    return tuple(
        left if size == full else size
        for size, full, left in zip(sizes, dense, small, strict=True)
    )


def _scatter(node: Node, relation: Relation) -> None:
    """Updates that are added may go where they are zero; others leave a mark."""
    (x, indices, updates), (y,) = node.inputs, node.outputs
    numbers = node.params["dimension_numbers"]
    relation.tie_values(x, y)
    inside = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    window = [a for a in range(x.ndim) if a not in inside]
    for axis, to in zip(window, numbers.update_window_dims, strict=True):
        _pass_or_freeze(node, relation, x.slots[axis], updates.slots[to])
    for axis in numbers.inserted_window_dims:
        relation.freeze(x.slots[axis], node, _INDEXED)
    for axis, to in zip(
        numbers.operand_batching_dims,
        numbers.scatter_indices_batching_dims,
        strict=True,
    ):
        relation.tie(x.slots[axis], indices.slots[to])
    batch = [a for a in range(updates.ndim) if a not in numbers.update_window_dims]
    for axis, to in enumerate(batch):
        relation.tie(indices.slots[axis], updates.slots[to])
        paired = axis in numbers.scatter_indices_batching_dims
        if not paired and node.name in _OVERWRITING:
            relation.freeze(updates.slots[to], node, _INDEXED)
    relation.freeze(indices.slots[-1], node, "an index vector")


def _dynamic_slice(node: Node, relation: Relation) -> None:
    x, (y,) = node.inputs[0], node.outputs
    for a, b in zip(x.slots, y.slots, strict=True):
        _pass_or_freeze(node, relation, a, b)


def _dynamic_slice_small(node: Node, small: Small, x: jax.Array, *starts: jax.Array):
    value, sizes = node.inputs[0], node.params["slice_sizes"]
    fitted = _fit(sizes, value.shape, small.shape(value))
    return node.bind(x, *starts, slice_sizes=fitted)


def _dynamic_update_slice(node: Node, relation: Relation) -> None:
    (x, update, *_), (y,) = node.inputs, node.outputs
    relation.tie_values(x, y)
    for a, b in zip(x.slots, update.slots, strict=True):
        _pass_or_freeze(node, relation, a, b)


register("gather", constrain=_gather, rewrite=_gather_small)
register(*_ADDING, *_OVERWRITING, constrain=_scatter)
register("dynamic_slice", constrain=_dynamic_slice, rewrite=_dynamic_slice_small)
register("dynamic_update_slice", constrain=_dynamic_update_slice)
