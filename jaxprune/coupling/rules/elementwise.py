"""Primitives that treat every entry alike: slots pass straight through.

An explicit list: `cumsum`, `sort` and `fft` preserve shapes too.
"""

from jaxprune.coupling.graph import Node
from jaxprune.coupling.registry import register
from jaxprune.coupling.relation import Relation

_UNARY = """
abs acos acosh asin asinh atan atanh bessel_i0e bessel_i1e cbrt ceil clz conj
convert_element_type copy copy_p cos cosh digamma erf erf_inv erfc exp exp2 expm1 floor
imag integer_pow is_finite lgamma log log1p log2 logistic neg not one_minus_square
population_count real reduce_precision round rsqrt sign sin sinh sqrt square
stop_gradient tan tanh
"""
_BINARY = """
add add_any and atan2 complex div eq eq_to ge gt igamma igamma_grad_a igammac le le_to
lt lt_to max min mul mulhi ne nextafter or polygamma pow rem shift_left
shift_right_arithmetic shift_right_logical sub xor zeta
"""
_TERNARY = "clamp select_n regularized_incomplete_beta"
_ANNOTATIONS = """
layout_constraint mesh_cast name platform_index pvary reshard sharding_constraint
"""


def _alike(node: Node, relation: Relation) -> None:
    (output,) = node.outputs
    for value in node.inputs:
        relation.tie_values(value, output)


def _each(node: Node, relation: Relation) -> None:
    """Several arrays, each passed on as it is."""
    for value, output in zip(node.inputs, node.outputs, strict=True):
        relation.tie_values(value, output)


def _bitcast(node: Node, relation: Relation) -> None:
    """Elementwise between types of one width, else an axis of bytes comes or goes."""
    (x,), (y,) = node.inputs, node.outputs
    for left, right in zip(x.slots, y.slots, strict=False):
        relation.tie(left, right)
    for value in (x, y):
        for slots in value.slots[min(x.ndim, y.ndim) :]:
            relation.freeze(slots, node, "bytes of a number")


register(*f"{_UNARY} {_BINARY} {_TERNARY} {_ANNOTATIONS}".split(), constrain=_alike)
register("device_put", "optimization_barrier", constrain=_each)
register("bitcast_convert_type", constrain=_bitcast)
