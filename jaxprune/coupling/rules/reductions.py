"""Sums lose what is zero; anything else over an axis needs all of it."""

from jaxprune.coupling.graph import Node
from jaxprune.coupling.registry import register
from jaxprune.coupling.relation import Relation


def _kept_axes(node: Node) -> list[int]:
    return [a for a in range(node.inputs[0].ndim) if a not in node.params["axes"]]


def _sum(node: Node, relation: Relation) -> None:
    """A slot that is zero may go from the sum (a mean divides by the dense count)."""
    (x,), (y,) = node.inputs, node.outputs
    for axis, slots in zip(_kept_axes(node), y.slots, strict=True):
        relation.tie(x.slots[axis], slots)


def _reduce(node: Node, relation: Relation) -> None:
    _sum(node, relation)
    for axis in node.params["axes"]:
        relation.freeze(node.inputs[0].slots[axis], node, "reduced over")


def _along(parameter: str):
    """Mixes all entries along the axis that `parameter` names."""

    def constrain(node: Node, relation: Relation) -> None:
        first = node.inputs[0]
        along = node.params[parameter] % first.ndim
        for value in (*node.inputs[1:], *node.outputs):
            relation.tie_values(first, value)
        relation.freeze(first.slots[along], node, "ordered along")

    return constrain


def _top_k(node: Node, relation: Relation) -> None:
    (x,), along = node.inputs, node.params.get("axis", -1) % node.inputs[0].ndim
    for axis in range(x.ndim):
        for y in node.outputs:
            if axis == along:
                relation.freeze(y.slots[axis], node, "ordered along")
            else:
                relation.tie(x.slots[axis], y.slots[axis])
    relation.freeze(x.slots[along], node, "ordered along")


def _window(node: Node, relation: Relation) -> None:
    """Pooling: an axis with a window of one passes through, others are needed whole."""
    *inputs, y = *node.inputs, *node.outputs
    arrays = [x for x in inputs if x.ndim == y.ndim]
    for axis, slots in enumerate(y.slots):
        for x in arrays:
            if _trivial(node, axis):
                relation.tie(x.slots[axis], slots)
            else:
                relation.freeze(x.slots[axis], node, "pooled over")
        if not _trivial(node, axis):
            relation.freeze(slots, node, "pooled over")


def _trivial(node: Node, axis: int) -> bool:
    """Whether the window along `axis` is a single entry, every entry in turn."""
    params = node.params
    plain = {
        "window_dimensions": 1,
        "window_strides": 1,
        "padding": (0, 0),
        "base_dilation": 1,
        "window_dilation": 1,
    }
    return all(
        tuple(params[key][axis]) == value
        if isinstance(value, tuple)
        else params[key][axis] == value
        for key, value in plain.items()
        if params.get(key) is not None
    )


register("reduce_sum", constrain=_sum)
register(
    *[
        "argmax",
        "argmin",
        "reduce_and",
        "reduce_max",
        "reduce_min",
        "reduce_or",
        "reduce_prod",
        "reduce_xor",
    ],
    constrain=_reduce,
)
register(
    *["cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"], constrain=_along("axis")
)
register("sort", constrain=_along("dimension"))
register("top_k", constrain=_top_k)
register(
    *[
        "reduce_window_max",
        "reduce_window_min",
        "reduce_window_sum",
        "select_and_gather_add",
        "select_and_scatter_add",
    ],
    constrain=_window,
)
