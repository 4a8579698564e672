"""What is known of each array of a program when its inputs are not.

A fact is a value and a mask of entries that depend on the inputs. Facts go through the
graph operation by operation; zero times anything is zero, as in a network whose values
are finite. Masks are exact entry by entry, so the borders that padding makes are right.
An operation without a rule here makes everything unknown that it is given anything
unknown for, which is always safe.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.coupling.graph import Graph, Node, Value
from jaxprune.types import Array

_SAME = 1e-6
"""Values that differ by less, relatively, are one: branches round differently."""


@dataclass(frozen=True, eq=False)
class Fact:
    """What is known of an array.

    Attributes:
      value: its entries, meaningless where unknown; None where all are.
      unknown: which entries are unknown: bools, or one bool for all.
    """

    value: Array | None
    unknown: Array | bool

    @property
    def everything(self) -> bool:
        """Whether it is plain from the program that every entry is known."""
        return self.unknown is False

    @property
    def nothing(self) -> bool:
        """Whether it is plain from the program that no entry is."""
        return self.value is None

    def mask(self) -> Array:
        """The unknown entries, as an array."""
        return jnp.broadcast_to(self.unknown, jnp.shape(self.value))

    def alive(self) -> Array | bool:
        """The entries that are not known to be zero."""
        return True if self.nothing else _or(self.unknown, self.value != 0)

    def clean(self) -> Array:
        """The value, zero where it is unknown."""
        return self.value if self.everything else _zero_where(self.mask(), self.value)


UNKNOWN = Fact(None, True)

Visit = Callable[[Node, Sequence[Fact], "Place"], None]
Rule = Callable[[Node, Sequence[Fact]], Sequence[Fact]]


@dataclass(frozen=True)
class Place:
    """Where in the program a node is.

    Attributes:
      repeated: in the body of a loop.
      custom: in a function with derivatives of its own.
      branch: the outermost conditional it is in, and the number of the branch.
    """

    repeated: bool = False
    custom: bool = False
    branch: tuple[Node, int] | None = None


def known(value: Any) -> Fact:
    """The fact that an array is `value`."""
    return Fact(jnp.asarray(value), False)


def propagate(
    graph: Graph,
    inputs: Sequence[Fact],
    visit: Visit = lambda *_: None,
    place: Place = Place(),
) -> list[Fact]:
    """What is known of the results of `graph`, given what is known of its inputs.

    Args:
      graph: a program.
      inputs: a fact for each of its inputs.
      visit: called for every node, those of bodies included, with the facts of its
        inputs and its place.
      place: where `graph` itself is.
    """
    facts = dict(zip(graph.inputs, inputs, strict=True))

    def read(value: Value) -> Fact:
        if value not in facts:
            facts[value] = known(value.constant)
        return facts[value]

    for node in graph.nodes:
        given = [read(value) for value in node.inputs]
        visit(node, given, place)
        results = _infer(node, given, visit, place)
        facts.update(zip(node.outputs, results, strict=True))
    return [read(value) for value in graph.outputs]


def _infer(
    node: Node, given: Sequence[Fact], visit: Visit, place: Place
) -> Sequence[Fact]:
    if node.name in _CONTROL:
        return _CONTROL[node.name](node, given, visit, place)
    rule = _RULES.get(node.name)
    plain = all(_is_plain(v) for v in (*node.inputs, *node.outputs))
    if node.bodies or node.equation.effects or not plain:
        return [UNKNOWN] * len(node.outputs)
    if all(fact.everything for fact in given):
        return [known(y) for y in node.bind(*[fact.value for fact in given])]
    if rule is None or all(fact.nothing for fact in given):
        return [UNKNOWN] * len(node.outputs)
    return rule(node, given)


def _is_plain(value: Value) -> bool:
    return not jnp.issubdtype(value.dtype, jax.dtypes.extended)


def _values(node: Node, given: Sequence[Fact]) -> list[Array]:
    """The values, zeros where nothing is known."""
    pairs = zip(node.inputs, given, strict=True)
    return [jnp.zeros(v.shape, v.dtype) if f.nothing else f.value for v, f in pairs]


def _masks(node: Node, given: Sequence[Fact]) -> list[Array]:
    pairs = zip(node.inputs, given, strict=True)
    return [jnp.broadcast_to(fact.unknown, value.shape) for value, fact in pairs]


def _or(*flags: Array | bool) -> Array | bool:
    """Which of the flags are set, without operations for the plain ones."""
    if any(flag is True for flag in flags):
        return True
    return reduce(jnp.logical_or, [f for f in flags if f is not False] or [False])


def _and(a: Array | bool, b: Array | bool) -> Array | bool:
    if a is False or b is False:
        return False
    return b if a is True else a if b is True else a & b


def _zero_where(flags: Array, value: Array) -> Array:
    return jnp.where(flags, jnp.zeros((), value.dtype), value)


def _elementwise(node: Node, given: Sequence[Fact]) -> list[Fact]:
    unknown = _or(*(fact.unknown for fact in given))
    if unknown is True:
        return [UNKNOWN]
    (value,) = node.bind(*_values(node, given))
    return [Fact(value, jnp.broadcast_to(unknown, value.shape))]


def _mul(node: Node, given: Sequence[Fact]) -> list[Fact]:
    """Zero times anything is zero."""
    a, b = (fact.alive() for fact in given)
    return _product(
        node, given, _or(_and(given[0].unknown, b), _and(given[1].unknown, a)), (a, b)
    )


def _div(node: Node, given: Sequence[Fact]) -> list[Fact]:
    """Zero over anything is zero."""
    above, below = given
    alive = above.alive()
    return _product(
        node, given, _or(above.unknown, _and(below.unknown, alive)), (alive,)
    )


def _product(
    node: Node, given: Sequence[Fact], unknown: Array, alive: Sequence[Array | bool]
) -> list[Fact]:
    """Zero where a factor is, whatever was computed from unknown ones."""
    (value,) = node.bind(*_values(node, given))
    alive = reduce(_and, alive)
    if alive is not True:
        value = _zero_where(~alive, value)
    return [Fact(value, jnp.broadcast_to(unknown, value.shape))]


def _select(node: Node, given: Sequence[Fact]) -> list[Fact]:
    """Known where the chosen case is, or where all cases are the same."""
    which, *cases = _values(node, given)
    unsure, *masks = _masks(node, given)
    (value,) = node.bind(which, *cases)
    differ = False
    for case, mask in zip(cases, masks, strict=True):
        differ = differ | mask | ~_close(case, cases[0])
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


def _function(
    node: Node, given: Sequence[Fact], visit: Visit, place: Place
) -> list[Fact]:
    """A call whose first body is the function itself."""
    custom = place.custom or node.name.startswith("custom_")
    return propagate(node.bodies[0], given, visit, replace(place, custom=custom))


def _cond(node: Node, given: Sequence[Fact], visit: Visit, place: Place) -> list[Fact]:
    """Known where all branches agree, whichever is taken."""
    runs = [
        propagate(body, given[1:], visit, _in_branch(place, node, number))
        for number, body in enumerate(node.bodies)
    ]
    return [_join(facts) for facts in zip(*runs, strict=True)]


def _in_branch(place: Place, node: Node, number: int) -> Place:
    return place if place.branch else replace(place, branch=(node, number))


def _join(facts: Sequence[Fact]) -> Fact:
    if any(fact.nothing for fact in facts):
        return UNKNOWN
    *others, last = facts
    unknown = last.unknown
    for fact in others:
        unknown = unknown | fact.unknown | ~_close(fact.value, last.value)
    return Fact(last.value, unknown)


def _while(node: Node, given: Sequence[Fact], visit: Visit, place: Place) -> list[Fact]:
    for body in node.bodies:
        nothing = [UNKNOWN] * len(body.inputs)
        propagate(body, nothing, visit, replace(place, repeated=True))
    return [UNKNOWN] * len(node.outputs)


def _scan(node: Node, given: Sequence[Fact], visit: Visit, place: Place) -> list[Fact]:
    """Known where it is the same at every step.

    The carry is known where a step gives back what it was given; the mask of unknown
    entries grows until it does not.
    """
    (body,), consts = node.bodies, node.params["num_consts"]
    carried = consts + node.params["num_carry"]
    steps = [_every_step(fact) for fact in given[carried:]]
    place = replace(place, repeated=True)

    def step(carry: Sequence[Fact], visit: Visit = lambda *_: None) -> list[Fact]:
        return propagate(body, [*given[:consts], *carry, *steps], visit, place)

    carry = _fixed_point(step, given[consts:carried])
    results = step(carry, visit)
    stacked = zip(results[len(carry) :], node.outputs[len(carry) :], strict=True)
    return [*carry, *(_stack(fact, value.shape) for fact, value in stacked)]


def _every_step(fact: Fact) -> Fact:
    if fact.nothing or not fact.value.shape[0]:
        return UNKNOWN
    first, mask = fact.value[0], fact.mask()
    return Fact(first, jnp.any(mask | ~_close(fact.value, first), axis=0))


def _fixed_point(step: Callable, start: Sequence[Fact]) -> list[Fact]:
    at = [i for i, fact in enumerate(start) if not fact.nothing]

    def facts(masks: Sequence[Array]) -> list[Fact]:
        carry = list(start)
        for i, mask in zip(at, masks, strict=True):
            carry[i] = Fact(start[i].value, mask)
        return carry

    def grow(state: tuple) -> tuple:
        masks, _ = state
        results = step(facts(masks))
        grown = [
            mask
            | (
                True
                if results[i].nothing
                else results[i].unknown | ~_close(results[i].value, start[i].value)
            )
            for i, mask in zip(at, masks, strict=True)
        ]
        pairs = zip(grown, masks, strict=True)
        return grown, jnp.any(jnp.array([jnp.any(a != b) for a, b in pairs]))

    if not at:
        return list(start)
    initial = ([start[i].mask() for i in at], jnp.array(True))
    return facts(lax.while_loop(lambda state: state[1], grow, initial)[0])


def _stack(fact: Fact, shape: tuple[int, ...]) -> Fact:
    if fact.nothing:
        return UNKNOWN
    unknown = jnp.broadcast_to(fact.unknown, fact.value.shape)
    return Fact(jnp.broadcast_to(fact.value, shape), jnp.broadcast_to(unknown, shape))


def _close(a: Array, b: Array) -> Array:
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        return a == b
    return (a == b) | (jnp.abs(a - b) <= _SAME * jnp.maximum(jnp.abs(a), jnp.abs(b)))


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
logistic neg not reduce_precision round rsqrt sign sin sinh sqrt square stop_gradient
tan tanh convert_element_type add add_any and eq ge gt le lt max min ne nextafter or pow
rem sub xor clamp
"""
_REDUCTIONS = "sum max min prod and or"

LOOSE = _MOVES | _INDEXED
"""Operations that may drop slots without having looked at them."""

_RULES: dict[str, Rule] = {
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

_CONTROL: dict[str, Callable] = {
    **dict.fromkeys(["remat2", "remat", "checkpoint"], _function),
    **dict.fromkeys(["custom_jvp_call", "custom_vjp_call"], _function),
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
