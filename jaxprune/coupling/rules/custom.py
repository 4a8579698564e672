"""Custom derivatives: the function and its rule, both kept as they are."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.coupling.derivatives import constants, derive, inexact
from jaxprune.coupling.graph import Node, Value
from jaxprune.coupling.registry import Small, register
from jaxprune.coupling.relation import Relation


def _custom(node: Node, relation: Relation) -> None:
    (function,) = node.bodies
    relation.tie_all(node.inputs, function.inputs)
    relation.tie_all(node.outputs, function.outputs)
    if relation.derivatives:
        derive(node, relation)


def _custom_jvp_small(node: Node, small: Small, *arrays: jax.Array):
    function = jax.custom_jvp(lambda *xs: small.run(node.bodies[0], *xs))
    count = len(node.outputs)

    @function.defjvp
    def _(primals, tangents):
        (rule,), inside = small.derivative(node)
        results = inside.run(rule, *primals, *_of_inexact(node.inputs, tangents))
        return results[:count], _with_zeros(results[count:], node.outputs, small)

    return function(*arrays)


def _custom_vjp_small(node: Node, small: Small, *arrays: jax.Array):
    function = jax.custom_vjp(lambda *xs: small.run(node.bodies[0], *xs))
    fixed, count = constants(node.equation), len(node.outputs)
    inside, backward = None, None

    def remember(*xs):
        nonlocal inside, backward
        (forward, backward), inside = small.derivative(node)
        results = inside.run(forward, *xs)
        return results[:count], results[count:]

    def pull_back(residuals, cotangents):
        given = _of_inexact(node.outputs, cotangents)
        results = inside.run(backward, *residuals, *given)
        zeros = [_zeros(value, small) for value in node.inputs[:fixed]]
        return *zeros, *_with_zeros(results, node.inputs[fixed:], small)

    function.defvjp(remember, pull_back)
    return function(*arrays)


def _of_inexact(values: Sequence[Value], arrays: Sequence) -> list[jax.Array]:
    """The tangents of those values that have one."""
    real = set(inexact(values))
    return [a for v, a in zip(values, arrays, strict=True) if v in real]


def _with_zeros(results: Sequence[jax.Array], like: Sequence[Value], small: Small):
    """A tangent for each value: those given, and zeros where there is none."""
    given, real = iter(results), set(inexact(like))
    return [next(given) if v in real else _zeros(v, small) for v in like]


def _zeros(value: Value, small: Small):
    if jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return None
    real = jnp.issubdtype(value.dtype, jnp.inexact)
    return np.zeros(small.shape(value), value.dtype if real else jax.dtypes.float0)


register("custom_jvp_call", constrain=_custom, rewrite=_custom_jvp_small)
register("custom_vjp_call", constrain=_custom, rewrite=_custom_vjp_small)
