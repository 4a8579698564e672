"""Matrix products and convolutions: contracted slots tie both sides."""

import jax
import numpy as np

from jaxprune.coupling.graph import Node
from jaxprune.coupling.registry import Small, register
from jaxprune.coupling.relation import Relation


def free_axes(node: Node) -> tuple[list[int], list[int]]:
    """The axes of both sides of a `dot_general` that it neither sums nor pairs."""
    (sum_l, sum_r), (pair_l, pair_r) = node.params["dimension_numbers"]
    left, right = node.inputs
    return (
        [a for a in range(left.ndim) if a not in (*sum_l, *pair_l)],
        [a for a in range(right.ndim) if a not in (*sum_r, *pair_r)],
    )


def _dot(node: Node, relation: Relation) -> None:
    (left, right), (y,) = node.inputs, node.outputs
    (sum_l, sum_r), (pair_l, pair_r) = node.params["dimension_numbers"]
    for a, b in (*zip(sum_l, sum_r, strict=True), *zip(pair_l, pair_r, strict=True)):
        relation.tie(left.slots[a], right.slots[b])
    free_l, free_r = free_axes(node)
    sources = [left.slots[a] for a in (*pair_l, *free_l)]
    sources += [right.slots[a] for a in free_r]
    for a, b in zip(sources, y.slots, strict=True):
        relation.tie(a, b)


def _convolution(node: Node, relation: Relation) -> None:
    (x, kernel), (y,) = node.inputs, node.outputs
    numbers = node.params["dimension_numbers"]
    batch_x, in_x, *space_x = numbers.lhs_spec
    out_k, in_k, *space_k = numbers.rhs_spec
    batch_y, out_y, *space_y = numbers.out_spec
    for i, (a, k, b) in enumerate(zip(space_x, space_k, space_y, strict=True)):
        if _pointwise(node, i, kernel.shape[k]):
            relation.tie(x.slots[a], y.slots[b])
        else:
            for slots in (x.slots[a], kernel.slots[k], y.slots[b]):
                relation.freeze(slots, node, "window of a convolution")
    relation.tie(kernel.slots[out_k], y.slots[out_y])
    batch_groups, groups = (
        node.params[f"{kind}_group_count"] for kind in ("batch", "feature")
    )
    features = x.slots[in_x], kernel.slots[in_k], y.slots[out_y]
    batch = x.slots[batch_x], y.slots[batch_y], y.slots[out_y]
    _groups(node, relation, groups, *features)
    _groups(node, relation, batch_groups, *batch)


def _groups(
    node: Node,
    relation: Relation,
    groups: int,
    ins: np.ndarray,
    shared: np.ndarray,
    outs: np.ndarray,
) -> None:
    """Grouped: lose the same channels within every group, or whole groups.

    Grouped along the batch (a gradient's convolution), the roles of channels are played
    by the batch.
    """
    if groups == 1:
        relation.tie(ins, shared)
        return
    ins, outs = ins.reshape(groups, -1), outs.reshape(groups, -1)
    if ins.shape[1] == 1 or relation.grouped == "whole":
        relation.tie_together(np.concatenate([ins, outs], axis=1))
        relation.freeze(shared, node, "whole groups of a convolution go")
    else:
        relation.tie(ins.ravel(), np.tile(shared, groups))
        relation.tie_together(outs.T)


def _pointwise(node: Node, i: int, window: int) -> bool:
    params = node.params
    plain = params["window_strides"][i] == params["lhs_dilation"][i] == window == 1
    return plain and tuple(params["padding"][i]) == (0, 0)


def _convolution_small(node: Node, small: Small, x: jax.Array, kernel: jax.Array):
    """Within groups: as many groups as before; whole groups: as many as are left."""
    numbers = node.params["dimension_numbers"]
    groups = x.shape[numbers.lhs_spec[1]] // kernel.shape[numbers.rhs_spec[1]]
    batch = small.shape(node.outputs[0])[numbers.out_spec[0]]
    batch_groups = x.shape[numbers.lhs_spec[0]] // batch
    return node.bind(
        x, kernel, feature_group_count=groups, batch_group_count=batch_groups
    )


register("dot_general", constrain=_dot)
register("conv_general_dilated", constrain=_convolution, rewrite=_convolution_small)
