"""A jaxpr as a graph of values and nodes, calls inlined: what every pass walks.

A cached sub-jaxpr is shared between its call sites, so facts about a jaxpr variable
would leak from one site to another. Here each site gets values of its own: plain calls
(`jit`, `closed_call`, …) are inlined, and primitives whose meaning needs the boundary
(`scan`, `while`, `cond`, `remat`, custom derivatives) become nodes with *bodies*, one
`Graph` each. A pass keys what it learns by `Value` (identity) and descends into bodies:

    def visit(graph):
        for node in graph.nodes:
            for body in node.bodies:
                visit(body)
            ...  # node.name, node.params, node.inputs, node.outputs

Bodies, and how their inputs and outputs relate to those of their node:

* `scan`: (body,), inputs consts + carry + slices of xs, outputs carry + slices of ys;
* `while`: (condition, body), inputs their consts + carry;
* `cond`: the branches, inputs the node's without the index;
* `remat2`, `checkpoint`: (body,), the same inputs and outputs;
* `custom_jvp_call`, `custom_vjp_call`: (function,), the same inputs and outputs; the
  rules of differentiation are graphs of their own, traced when asked for
  (`derivatives`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np

_INLINED = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "core_closed_call", "composite"}
)
_JAX_HOME = str(Path(jax.__file__).parent)
_OUR_HOME = str(Path(__file__).parents[1])


@dataclass(eq=False, slots=True)
class Value:
    """An array of the program at one call site.

    Attributes:
      shape: its dense shape.
      dtype: its dtype.
      constant: its value where the program holds it (literals, closed-over arrays),
        else None.
      slots: for each axis the slot of each index, given by `Relation.label`.
    """

    shape: tuple[int, ...]
    dtype: Any
    constant: Any = None
    slots: tuple[np.ndarray, ...] | None = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)


@dataclass(eq=False, slots=True)
class Node:
    """One application of a primitive.

    Attributes:
      equation: the equation of the jaxpr it stands for.
      inputs: what it takes.
      outputs: what it gives.
      bodies: graphs of its sub-jaxprs, see the module's docstring.
      calls: equations of the calls it lies in, the innermost first.
    """

    equation: jex.JaxprEqn
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    bodies: tuple["Graph", ...] = ()
    calls: tuple[jex.JaxprEqn, ...] = ()

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.equation.primitive.name

    @property
    def params(self) -> Mapping[str, Any]:
        """The primitive's parameters, at dense sizes."""
        return self.equation.params

    @property
    def source(self) -> str:
        """Where the user's program applies it, `"file.py:12"`; "" where unknown."""
        return _source((self.equation, *self.calls))

    def bind(self, *arrays: jax.Array, **changed: Any) -> Sequence[jax.Array]:
        """Applies the primitive to `arrays`, with some parameters changed."""
        outputs = bind(self.equation, arrays, changed)
        return outputs if self.equation.primitive.multiple_results else [outputs]


@dataclass(eq=False, slots=True)
class Graph:
    """A program: nodes in the order of execution.

    Attributes:
      inputs: its arguments.
      outputs: its results.
      nodes: what it does, without the calls that nothing uses.
      constants: closed-over arrays.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...] = ()
    constants: tuple[Value, ...] = ()

    def walk(self) -> Iterator[Node]:
        """All nodes, those of bodies before the node that holds them."""
        for node in self.nodes:
            for body in node.bodies:
                yield from body.walk()
            yield node


def trace(
    function: Callable, *args: Any, calls: tuple[jex.JaxprEqn, ...] = ()
) -> tuple[Graph, Any]:
    """The graph of `function(*args)` and the tree of its results' shapes.

    Args:
      function: anything `jax.make_jaxpr` can trace.
      *args: pytrees of arrays or `jax.ShapeDtypeStruct`.
      calls: equations of the calls it lies in, for `Node.source`.
    """
    jaxpr, results = jax.make_jaxpr(function, return_shape=True)(*args)
    return build(jaxpr, calls), results


def build(closed: jex.ClosedJaxpr, calls: tuple[jex.JaxprEqn, ...] = ()) -> Graph:
    """The graph of a closed jaxpr, inside of `calls`."""
    builder = _Builder(calls)
    inputs = tuple(_value(v.aval) for v in closed.jaxpr.invars)
    outputs = builder.inline(closed.jaxpr, closed.consts, inputs)
    nodes = _used(builder.nodes, outputs)
    return Graph(inputs, outputs, nodes, tuple(builder.constants))


def bind(equation: jex.JaxprEqn, arrays: Sequence[Any], changed: Mapping = {}) -> Any:
    """Applies the primitive of `equation`, with some parameters changed."""
    bound = equation.primitive.get_bind_params({**equation.params, **changed})
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    return equation.primitive.bind(*functions, *arrays, **params)


@dataclass
class _Builder:
    calls: tuple[jex.JaxprEqn, ...]
    nodes: list[Node] = field(default_factory=list)
    constants: list[Value] = field(default_factory=list)

    def inline(
        self, jaxpr: jex.Jaxpr, consts: Sequence[Any], inputs: Sequence[Value]
    ) -> tuple[Value, ...]:
        """Appends the nodes of `jaxpr`; returns the values of its results."""
        held = [_value(v.aval, c) for v, c in zip(jaxpr.constvars, consts, strict=True)]
        self.constants += held
        values = dict(zip(jaxpr.constvars, held, strict=True))
        values.update(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, jex.Literal):
                literal = _value(atom.aval, atom.val)
                if literal.shape:
                    self.constants.append(literal)
                return literal
            return values[atom]

        for equation in jaxpr.eqns:
            arguments = tuple(map(read, equation.invars))
            if equation.primitive.name in _INLINED:
                inner, inner_consts = _open(_callee(equation))
                outer, self.calls = self.calls, (equation, *self.calls)
                outputs = self.inline(inner, inner_consts, arguments)
                self.calls = outer
            else:
                outputs = tuple(_value(v.aval) for v in equation.outvars)
                bodies = _bodies(equation, self.calls)
                node = Node(equation, arguments, outputs, bodies, self.calls)
                self.nodes.append(node)
            values.update(zip(equation.outvars, outputs, strict=True))
        return tuple(map(read, jaxpr.outvars))


def _value(aval: Any, constant: Any = None) -> Value:
    return Value(tuple(getattr(aval, "shape", ())), aval.dtype, constant)


def _open(jaxpr: Any) -> tuple[jex.Jaxpr, Sequence[Any]]:
    closed = isinstance(jaxpr, jex.ClosedJaxpr)
    return (jaxpr.jaxpr, jaxpr.consts) if closed else (jaxpr, ())


def _callee(equation: jex.JaxprEqn) -> Any:
    return equation.params.get("jaxpr", equation.params.get("call_jaxpr"))


def _used(nodes: Sequence[Node], outputs: Sequence[Value]) -> tuple[Node, ...]:
    """The nodes that the outputs need, or that have effects."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if node.equation.effects or not needed.isdisjoint(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept))


def _bodies(equation: jex.JaxprEqn, calls: tuple) -> tuple[Graph, ...]:
    params, inside = equation.params, (equation, *calls)
    match equation.primitive.name:
        case "scan" | "remat2" | "checkpoint" | "remat":
            bodies = (params["jaxpr"],)
        case "while":
            bodies = (params["cond_jaxpr"], params["body_jaxpr"])
        case "cond":
            bodies = params["branches"]
        case "custom_jvp_call" | "custom_vjp_call":
            bodies = (params["call_jaxpr"],)
        case _:
            bodies = ()
    return tuple(build(jex.ClosedJaxpr(*_open(body)), inside) for body in bodies)


def _source(equations: Sequence[jex.JaxprEqn]) -> str:
    """The innermost line outside JAX; of those, one outside installed packages."""
    tracebacks = (equation.source_info.traceback for equation in equations)
    frames = [
        (f"{Path(frame.file_name).name}:{frame.line_num}", frame.file_name)
        for traceback in tracebacks
        for frame in (traceback.frames if traceback else ())
        if not frame.file_name.startswith((_JAX_HOME, _OUR_HOME, "<"))
    ]
    own = [line for line, file in frames if "site-packages" not in file]
    return next(iter(own or [line for line, _ in frames]), "")
