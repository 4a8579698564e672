"""Control flow, rematerialisation and custom derivatives: primitives with bodies.

The slots of a body are tied to those of its node, so one relation spans all levels. The
rules of custom derivatives are bodies too: they are kept, never differentiated anew.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.coupling.graph import Graph, Node, Value
from jaxprune.coupling.registry import Small, register
from jaxprune.coupling.relation import Relation


def _tie_all(relation: Relation, left: Sequence[Value], right: Sequence[Value]) -> None:
    for a, b in zip(left, right, strict=True):
        relation.tie_values(a, b)


def _scan(node: Node, relation: Relation) -> None:
    (body,), consts, carry = node.bodies, *_scan_counts(node)
    _tie_all(relation, node.inputs[:carry], body.inputs[:carry])
    _tie_all(relation, body.inputs[consts:carry], body.outputs[: carry - consts])
    _tie_all(relation, body.inputs[consts:carry], node.outputs[: carry - consts])
    stacked = zip(
        (*node.inputs[carry:], *node.outputs[carry - consts :]),
        (*body.inputs[carry:], *body.outputs[carry - consts :]),
        strict=True,
    )
    for whole, step in stacked:
        relation.freeze(whole.slots[0], node, "steps of a scan")
        for a, b in zip(whole.slots[1:], step.slots, strict=True):
            relation.tie(a, b)


def _scan_counts(node: Node) -> tuple[int, int]:
    """How many inputs are constants, and how many are constants or carry."""
    consts = node.params["num_consts"]
    return consts, consts + node.params["num_carry"]


def _scan_small(node: Node, small: Small, *arrays: jax.Array):
    (body,), consts, carry = node.bodies, *_scan_counts(node)

    def step(state, x):
        outputs = small.run(body, *arrays[:consts], *state, *x)
        return outputs[: carry - consts], outputs[carry - consts :]

    state, stacked = lax.scan(
        step,
        list(arrays[consts:carry]),
        list(arrays[carry:]),
        length=node.params["length"],
        reverse=node.params["reverse"],
        unroll=node.params["unroll"],
    )
    return [*state, *stacked]


def _while(node: Node, relation: Relation) -> None:
    (condition, body), consts_c, consts = node.bodies, *_while_counts(node)
    state = node.inputs[consts:]
    _tie_all(relation, (*node.inputs[:consts_c], *state), condition.inputs)
    _tie_all(relation, node.inputs[consts_c:], body.inputs)
    _tie_all(relation, state, body.outputs)
    _tie_all(relation, state, node.outputs)


def _while_counts(node: Node) -> tuple[int, int]:
    consts_c = node.params["cond_nconsts"]
    return consts_c, consts_c + node.params["body_nconsts"]


def _while_small(node: Node, small: Small, *arrays: jax.Array):
    (condition, body), consts_c, consts = node.bodies, *_while_counts(node)
    return lax.while_loop(
        lambda state: small.run(condition, *arrays[:consts_c], *state)[0],
        lambda state: small.run(body, *arrays[consts_c:consts], *state),
        list(arrays[consts:]),
    )


def _cond(node: Node, relation: Relation) -> None:
    for branch in node.bodies:
        _tie_all(relation, node.inputs[1:], branch.inputs)
        _tie_all(relation, node.outputs, branch.outputs)


def _cond_small(node: Node, small: Small, index: jax.Array, *arrays: jax.Array):
    """Binds the primitive itself, which knows what branch is for what platform."""
    structs = [jax.ShapeDtypeStruct(small.shape(v), v.dtype) for v in node.inputs[1:]]

    def smaller(branch: Graph):
        return jax.make_jaxpr(lambda *xs: small.run(branch, *xs))(*structs)

    return node.bind(index, *arrays, branches=tuple(map(smaller, node.bodies)))


def _pass_through(node: Node, relation: Relation) -> None:
    (body,) = node.bodies
    _tie_all(relation, node.inputs, body.inputs)
    _tie_all(relation, node.outputs, body.outputs)


def _remat_small(node: Node, small: Small, *arrays: jax.Array):
    again = jax.checkpoint(
        lambda *xs: small.run(node.bodies[0], *xs),
        policy=node.params["policy"],
        prevent_cse=node.params["prevent_cse"],
    )
    return again(*arrays)


def _custom_jvp(node: Node, relation: Relation) -> None:
    function, rule = node.bodies
    _tie_all(relation, node.inputs, function.inputs)
    _tie_all(relation, node.outputs, function.outputs)
    _tie_all(relation, (*node.inputs, *_inexact(node.inputs)), rule.inputs)
    _tie_all(relation, (*node.outputs, *_inexact(node.outputs)), rule.outputs)


def _custom_jvp_small(node: Node, small: Small, *arrays: jax.Array):
    function, rule = node.bodies
    custom = jax.custom_jvp(lambda *xs: small.run(function, *xs))

    @custom.defjvp
    def _(primals, tangents):
        given = [t for t, v in zip(tangents, node.inputs, strict=True) if v.inexact]
        results = small.run(rule, *primals, *given)
        count = len(node.outputs)
        return results[:count], _with_zeros(results[count:], node.outputs, small)

    return custom(*arrays)


def _custom_vjp(node: Node, relation: Relation) -> None:
    function, forward, backward = node.bodies
    count, residuals = len(node.outputs), forward.outputs[len(node.outputs) :]
    _tie_all(relation, node.inputs, function.inputs)
    _tie_all(relation, node.outputs, function.outputs)
    _tie_all(relation, node.inputs, forward.inputs)
    _tie_all(relation, node.outputs, forward.outputs[:count])
    _tie_all(relation, (*residuals, *_inexact(node.outputs)), backward.inputs)
    _tie_all(relation, _inexact(node.inputs), backward.outputs)


def _custom_vjp_small(node: Node, small: Small, *arrays: jax.Array):
    function, forward, backward = node.bodies
    custom = jax.custom_vjp(lambda *xs: small.run(function, *xs))

    def remember(*xs):
        results = small.run(forward, *xs)
        return results[: len(node.outputs)], results[len(node.outputs) :]

    def pull_back(residuals, cotangents):
        pairs = zip(cotangents, node.outputs, strict=True)
        given = [c for c, v in pairs if v.inexact]
        results = small.run(backward, *residuals, *given)
        return tuple(_with_zeros(results, node.inputs, small))

    custom.defvjp(remember, pull_back)
    return custom(*arrays)


def _inexact(values: Sequence[Value]) -> list[Value]:
    return [v for v in values if v.inexact]


def _with_zeros(results: Sequence[jax.Array], like: Sequence[Value], small: Small):
    """A tangent for each value: those given, and zeros where there is none."""
    given = iter(results)

    def zeros(value: Value):
        if jnp.issubdtype(value.dtype, jax.dtypes.extended):
            return None
        return np.zeros(small.shape(value), jax.dtypes.float0)

    return [next(given) if v.inexact else zeros(v) for v in like]


register("scan", constrain=_scan, rewrite=_scan_small)
register("while", constrain=_while, rewrite=_while_small)
register("cond", constrain=_cond, rewrite=_cond_small)
register("remat2", "checkpoint", "remat", constrain=_pass_through, rewrite=_remat_small)
register("custom_jvp_call", constrain=_custom_jvp, rewrite=_custom_jvp_small)
register("custom_vjp_call", constrain=_custom_vjp, rewrite=_custom_vjp_small)
