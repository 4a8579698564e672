"""The rules of custom derivatives, as graphs.

A custom derivative is a primitive that carries its rule as a Python function for the
dense shapes. Tracing JAX's own derivative of that one equation shows the rule as a
jaxpr, which can be coupled and run at small sizes as any other. A rule may call its own
function again; so rules are traced when asked for, one order at a time.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from jaxprune.coupling.graph import Graph, Node, Value, bind, trace
from jaxprune.coupling.registry import constrain
from jaxprune.coupling.relation import Relation


def derive(node: Node, relation: Relation) -> tuple[Graph, ...]:
    """Traces the rule of a custom derivative and ties its slots to those of `node`.

    Args:
      node: a `custom_jvp_call` or a `custom_vjp_call`, labelled.
      relation: gets what the rule demands.

    Returns:
      Of a JVP (rule,), which maps primals + tangents of the inexact inputs to outputs +
      tangents of the inexact outputs. Of a VJP (forward, backward): forward maps inputs
      to outputs + residuals, backward maps residuals + cotangents of the inexact
      outputs to cotangents of the inexact inputs, without the `constants`.
    """
    derivatives, relation.derivatives = relation.derivatives, False
    out_tangents = inexact(node.outputs)
    if node.name == "custom_jvp_call":
        graphs = (rule,) = (_jvp_rule(node),)
        constrain(rule, relation)
        ties = (
            ((*node.inputs, *inexact(node.inputs)), rule.inputs),
            ((*node.outputs, *out_tangents), rule.outputs),
        )
    else:
        graphs = forward, backward = _vjp_rules(node)
        constrain(forward, relation)
        constrain(backward, relation)
        residuals = forward.outputs[len(node.outputs) :]
        ties = (
            (node.inputs, forward.inputs),
            ((*node.outputs, *residuals), forward.outputs),
            ((*residuals, *out_tangents), backward.inputs),
            (inexact(node.inputs[constants(node.equation) :]), backward.outputs),
        )
    for left, right in ties:
        relation.tie_all(left, right)
    relation.derivatives = derivatives
    return graphs


def inexact(values: Sequence[Value]) -> list[Value]:
    """Those that have tangents: floating or complex."""
    return [v for v in values if _is_inexact(v)]


def constants(equation: jex.JaxprEqn) -> int:
    """How many inputs of a `custom_vjp_call` have no cotangents.

    They come first: what its function closes over.
    """
    return equation.params["num_consts"]


def _jvp_rule(node: Node) -> Graph:
    equation, primals = node.equation, _structs(node.equation)

    def rule(primals, tangents):
        function, points = _of_inexact(equation, [], primals)
        outputs, out_tangents = jax.jvp(function, points, tuple(tangents))
        pairs = zip(outputs, out_tangents, strict=True)
        return outputs, [t for o, t in pairs if _is_inexact(o)]

    tangents = list(filter(_is_inexact, primals))
    return trace(rule, primals, tangents, calls=(equation, *node.calls))[0]


def _vjp_rules(node: Node) -> tuple[Graph, Graph]:
    equation, residuals_tree = node.equation, None
    calls = (equation, *node.calls)

    def forward(primals):
        nonlocal residuals_tree
        count = constants(equation)
        function, points = _of_inexact(equation, primals[:count], primals[count:])
        outputs, pullback = jax.vjp(function, *points)
        residuals, residuals_tree = jax.tree.flatten(pullback)
        return outputs, residuals

    def backward(residuals, cotangents):
        pullback = jax.tree.unflatten(residuals_tree, residuals)
        given = iter(cotangents)
        return pullback([next(given) if _is_inexact(o) else _zero(o) for o in outputs])

    graph, results = trace(forward, _structs(equation), calls=calls)
    outputs, residuals = results
    cotangents = list(filter(_is_inexact, outputs))
    return graph, trace(backward, residuals, cotangents, calls=calls)[0]


def _of_inexact(
    equation: jex.JaxprEqn, fixed: Sequence[Any], primals: Sequence[Any]
) -> tuple:
    """The equation as a function of its inexact primals, and those."""

    def function(*points):
        given = iter(points)
        filled = (next(given) if _is_inexact(p) else p for p in primals)
        return bind(equation, [*fixed, *filled])

    return function, tuple(filter(_is_inexact, primals))


def _structs(equation: jex.JaxprEqn) -> list[jax.ShapeDtypeStruct]:
    avals = (v.aval for v in equation.invars)
    return [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in avals]


def _is_inexact(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


def _zero(array: Any) -> np.ndarray:
    """The cotangent of an array that has none."""
    return np.zeros(array.shape, jax.dtypes.float0)
