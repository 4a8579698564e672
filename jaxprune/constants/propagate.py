"""Facts go through a program, operation by operation.

An operation without a rule makes everything unknown when it is given anything unknown,
which is always safe.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.constants.facts import UNKNOWN, Fact, close, known
from jaxprune.constants.rules import RULES
from jaxprune.coupling.graph import Graph, Node, Value
from jaxprune.coupling.rules.control import scan_counts
from jaxprune.types import Array

Visit = Callable[[Node, Sequence[Fact], "Place"], None]


@dataclass(frozen=True)
class Place:
    """Where in the program a node is.

    Attributes:
      repeated: in the body of a loop.
      custom: in a function with derivatives of its own.
      branch: the outermost conditional it is in, and the number of the branch.
      nested: in a conditional within that branch.
    """

    repeated: bool = False
    custom: bool = False
    branch: tuple[Node, int] | None = None
    nested: bool = False


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
    rule = RULES.get(node.name)
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
    if place.branch:
        return replace(place, nested=True)
    return replace(place, branch=(node, number))


def _join(facts: Sequence[Fact]) -> Fact:
    if any(fact.nothing for fact in facts):
        return UNKNOWN
    *others, last = facts
    unknown = last.unknown
    for fact in others:
        unknown = unknown | fact.unknown | ~close(fact.value, last.value)
    return Fact(last.value, unknown)


def _while(node: Node, given: Sequence[Fact], visit: Visit, place: Place) -> list[Fact]:
    for body in node.bodies:
        nothing = [UNKNOWN] * len(body.inputs)
        propagate(body, nothing, visit, replace(place, repeated=True))
    return [UNKNOWN] * len(node.outputs)


def _scan(node: Node, given: Sequence[Fact], visit: Visit, place: Place) -> list[Fact]:
    """Known where it is the same at every step.

    The carry is known where a step gives back exactly what it was given, as a small
    drift adds up; the mask of unknown entries grows until it does not.
    """
    (body,), consts, carried = node.bodies, *scan_counts(node)
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
    return Fact(first, jnp.any(mask | ~close(fact.value, first), axis=0))


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
                else results[i].unknown | (results[i].value != start[i].value)
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


_CONTROL: dict[str, Callable] = {
    **dict.fromkeys(["remat2", "remat", "checkpoint"], _function),
    **dict.fromkeys(["custom_jvp_call", "custom_vjp_call"], _function),
    "cond": _cond,
    "while": _while,
    "scan": _scan,
}
