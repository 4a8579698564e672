"""What operations make of what is known, one rule for each.

Zero times anything is zero, as in a network whose values are finite. Masks are exact
entry by entry, so the borders that padding makes are right.
"""

from collections.abc import Callable, Sequence
from functools import reduce

import jax.numpy as jnp
from jax import lax

from jaxprune.constants.facts import UNKNOWN, Fact, both, close, either, zero_where
from jaxprune.coupling.graph import Node
from jaxprune.types import Array

Rule = Callable[[Node, Sequence[Fact]], Sequence[Fact]]


def _values(node: Node, given: Sequence[Fact]) -> list[Array]:
    """The values, zeros where nothing is known."""
    pairs = zip(node.inputs, given, strict=True)
    return [jnp.zeros(v.shape, v.dtype) if f.nothing else f.value for v, f in pairs]


def _masks(node: Node, given: Sequence[Fact]) -> list[Array]:
    pairs = zip(node.inputs, given, strict=True)
    return [jnp.broadcast_to(fact.unknown, value.shape) for value, fact in pairs]


def _elementwise(node: Node, given: Sequence[Fact]) -> list[Fact]:
    unknown = either(*(fact.unknown for fact in given))
    if unknown is True:
        return [UNKNOWN]
    (value,) = node.bind(*_values(node, given))
    return [Fact(value, jnp.broadcast_to(unknown, value.shape))]


def _mul(node: Node, given: Sequence[Fact]) -> list[Fact]:
    """Zero times anything is zero."""
    a, b = (fact.alive() for fact in given)
    return _product(
        node,
        given,
        either(both(given[0].unknown, b), both(given[1].unknown, a)),
        (a, b),
    )


def _div(node: Node, given: Sequence[Fact]) -> list[Fact]:
    """Zero over anything is zero."""
    above, below = given
    alive = above.alive()
    return _product(
        node, given, either(above.unknown, both(below.unknown, alive)), (alive,)
    )


def _product(
    node: Node, given: Sequence[Fact], unknown: Array, alive: Sequence[Array | bool]
) -> list[Fact]:
    """Zero where a factor is, whatever was computed from unknown ones."""
    (value,) = node.bind(*_values(node, given))
    alive = reduce(both, alive)
    if alive is not True:
        value = zero_where(~alive, value)
    return [Fact(value, jnp.broadcast_to(unknown, value.shape))]


def _select(node: Node, given: Sequence[Fact]) -> list[Fact]:
    """Known where the chosen case is, or where all cases are the same."""
    which, *cases = _values(node, given)
    unsure, *masks = _masks(node, given)
    (value,) = node.bind(which, *cases)
    differ = False
    for case, mask in zip(cases, masks, strict=True):
        differ = differ | mask | ~close(case, cases[0])
    return [Fact(value, jnp.where(unsure, differ, lax.select_n(which, *masks)))]


def _move(node: Node, given: Sequence[Fact]) -> list[Fact]:
    """Entries go elsewhere, and so do the unknown ones."""
    values, masks = node.bind(*_values(node, given)), node.bind(*_masks(node, given))
    return [Fact(value, mask) for value, mask in zip(values, masks, strict=True)]


def _indexed(node: Node, given: Sequence[Fact]) -> list[Fact]:
    """A move by known indices; entries out of bounds count as unknown."""
    operands = 2 if node.name == "dynamic_update_slice" else 1
    if not all(fact.everything for fact in given[operands:]):
        return [UNKNOWN]
    values = _values(node, given)
    masks = [m.astype(jnp.float32) for m in _masks(node, given)[:operands]]
    (value,) = node.bind(*values)
    (mask,) = node.bind(*masks, *values[operands:])
    return [Fact(value, mask != 0)]


def _reduce(node: Node, given: Sequence[Fact]) -> list[Fact]:
    (value,) = node.bind(*_values(node, given))
    return [Fact(value, jnp.any(_masks(node, given)[0], axis=node.params["axes"]))]


def _cumulate(node: Node, given: Sequence[Fact]) -> list[Fact]:
    (value,), (mask,) = node.bind(*_values(node, given)), _masks(node, given)
    unknown = jnp.any(mask, axis=node.params["axis"], keepdims=True)
    return [Fact(value, jnp.broadcast_to(unknown, value.shape))]


def _window(node: Node, given: Sequence[Fact]) -> list[Fact]:
    """Known where all entries in the window are; padding is."""
    (value,), (mask,) = node.bind(*_values(node, given)), _masks(node, given)
    params = node.params
    unknown = lax.reduce_window(
        mask.astype(jnp.float32),
        0.0,
        lax.max,
        params["window_dimensions"],
        params["window_strides"],
        params["padding"],
        params["base_dilation"],
        params["window_dilation"],
    )
    return [Fact(value, unknown > 0)]


def _contract(node: Node, given: Sequence[Fact]) -> list[Fact]:
    """Known where each product is: both factors known, or one of them zero."""
    values = [
        x if f.nothing else f.clean()
        for x, f in zip(_values(node, given), given, strict=True)
    ]
    (value,) = node.bind(*values)
    u, v = (mask.astype(jnp.float32) for mask in _masks(node, given))
    a, b = (
        jnp.broadcast_to(fact.alive(), value.shape).astype(jnp.float32)
        for fact, value in zip(given, node.inputs, strict=True)
    )
    as_float = {"preferred_element_type": jnp.dtype(jnp.float32)}
    terms = []
    if not given[0].everything:
        terms += node.bind(u, b, **as_float)
    if not given[1].everything:
        terms += node.bind(a, v, **as_float)
    return [Fact(value, sum(terms) > 0)]


_MOVES = frozenset(
    {"broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "rev"}
    | {
        "slice",
        "concatenate",
        "split",
        "pad",
        "copy",
        "copy_p",
        "device_put",
        "stack",
        "unstack",
    }
    | {"optimization_barrier", "sharding_constraint"}
)
_INDEXED = frozenset({"gather", "dynamic_slice", "dynamic_update_slice"})
_ELEMENTWISE = """
abs acos acosh asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil cos cosh
digamma erf erf_inv erfc exp exp2 expm1 floor integer_pow is_finite lgamma log log1p
log2 logistic neg not one_minus_square reduce_precision round rsqrt sign sin sinh sqrt
square stop_gradient tan tanh convert_element_type add add_any and eq ge gt le lt max
min ne nextafter or pow rem sub xor clamp
"""
_REDUCTIONS = "sum max min prod and or"

LOOSE = _MOVES | _INDEXED
"""Operations that may drop slots without having looked at them."""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_INDEXED, _indexed),
    **{f"reduce_{name}": _reduce for name in _REDUCTIONS.split()},
    **{f"reduce_window_{name}": _window for name in ("sum", "max", "min")},
    **dict.fromkeys(["cumsum", "cumprod", "cummax", "cummin"], _cumulate),
    "mul": _mul,
    "div": _div,
    "select_n": _select,
    "dot_general": _contract,
    "conv_general_dilated": _contract,
}
