"""A function of the variables becomes the same function of smaller variables.

The jaxpr of `fn` is traced at the dense shapes and the call's inputs, and run again
with the arrays that are left: most primitives run as they are, a few with smaller
sizes among their parameters. There is no code of any model in it, and after compilation
nothing remains but the smaller network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import paths
from jaxprune.coupling.derivatives import derive
from jaxprune.coupling.graph import Graph, Node, Value
from jaxprune.coupling.registry import rewrite
from jaxprune.coupling.relation import Policy, Relation
from jaxprune.coupling.solve import solve
from jaxprune.coupling.trace import Traced
from jaxprune.plan import Fold, Plan
from jaxprune.plan.fold import LINEAR
from jaxprune.types import PyTree


def shrink(fn: Callable, plan: Plan, *, fold: Fold | None = None) -> Callable:
    """`fn` for the variables that `plan` leaves.

    Where the removed slots are zero wherever `fn` sums over them, it returns what `fn`
    returns with the dense variables. Results that renew leaves (batch statistics) come
    back at their small shapes. It can be jitted, differentiated, vectorised, exported,
    called with other batch sizes. Custom derivatives, `remat` and branches by platform
    stay what they are; random numbers are those that the dense function draws.

    A call traces `fn`, so jit it; traces are kept by the shapes of the inputs and
    the precision of matrix products.

    Args:
      fn: pure function of the dense variables and some inputs, as for
        `trace_coupling`.
      plan: what to remove; a plan for several functions traced jointly suits each.
      fold: corrections for constants that go, of which the maps are added here; only
        for the function and the image size that they were made for.

    Returns:
      A function of the small variables (`plan.apply(variables)`) and the same inputs.

    Raises:
      ValueError: when called, if variables are not as the plan leaves them, or the plan
        removes slots that `fn` needs; the message says which and why.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> def mlp(params, x):
      ...     return jnp.tanh(x @ params["w"]) @ params["v"]
      >>> plan = jp.Plan(
      ...     {"w": (3, 8), "v": (8, 2)}, {"w": {1: (0, 5)}, "v": {0: (0, 5)}})
      >>> small = {"w": jnp.ones((3, 6)), "v": jnp.ones((6, 2))}
      >>> shrink(mlp, plan)(small, jnp.ones((4, 3))).shape
      (4, 2)
    """
    removed = {
        (path, axis): np.asarray(indices, int)
        for path, axes in plan.removed.items()
        for axis, indices in axes.items()
        if len(indices)
    }
    programs: dict[Any, tuple[_Program, Any]] = {}

    def small_fn(variables: PyTree, *inputs: Any) -> Any:
        leaves, tree = jax.tree.flatten((variables, inputs))
        precision = jax.config.jax_default_matmul_precision
        key = (tree, precision, tuple(map(_signature, leaves)))
        program, results = programs.get(key) or (None, None)
        if program is None:
            dense = _dense(variables, plan, removed)
            program, results = _program(fn, dense, inputs, removed, fold or Fold())
            programs[key] = program, results
        return jax.tree.unflatten(results, program.run(program.graph, *leaves))

    return small_fn


@dataclass(frozen=True, eq=False)
class _Program:
    """A graph and which slots of it are left: a `registry.Small`."""

    graph: Graph
    keep: np.ndarray
    grouped: str
    split: Policy
    maps: dict[Node, np.ndarray] = field(default_factory=dict)

    def kept(self, value: Value, axis: int) -> np.ndarray:
        return self.keep[value.slots[axis]]

    def shape(self, value: Value) -> tuple[int, ...]:
        return tuple(int(np.count_nonzero(self.keep[s])) for s in value.slots)

    def take(self, array: Any, value: Value) -> Any:
        for axis in range(value.ndim):
            kept = self.kept(value, axis)
            if not kept.all():
                array = jnp.take(array, np.flatnonzero(kept), axis, mode="clip")
        return array

    def run(self, graph: Graph, *arrays: Any) -> list[Any]:
        """Interprets `graph`, forgetting each array after its last use."""
        values = dict(zip(graph.inputs, arrays, strict=True))
        last = {value: node for node in graph.nodes for value in node.inputs}
        last.update(dict.fromkeys(graph.outputs))

        def read(value: Value) -> Any:
            if value in values:
                return values[value]
            return self.take(value.constant, value)

        for node in graph.nodes:
            outputs = rewrite(node, self, *map(read, node.inputs))
            if node in self.maps:
                outputs = [outputs[0] + self._small_map(node, outputs[0].dtype)]
            for value, array in zip(node.outputs, outputs, strict=True):
                self._check(node, value, array)
                values[value] = array
            for value in set(node.inputs):
                if last[value] is node:
                    values.pop(value, None)
        return list(map(read, graph.outputs))

    def derivative(self, node: Node) -> tuple[tuple[Graph, ...], "_Program"]:
        """The rule of a custom derivative, where the arrays of `node` are as here."""
        values = (*node.inputs, *node.outputs)
        copies = {v: Value(v.shape, v.dtype, v.constant) for v in values}
        inputs, outputs = ([copies[v] for v in s] for s in (node.inputs, node.outputs))
        copy = Node(node.equation, tuple(inputs), tuple(outputs), calls=node.calls)
        relation = Relation(self.grouped)
        for value in copies.values():
            relation.label(value)
        rules = derive(copy, relation)
        slots = [s for value in copies.values() for s in value.slots]
        kept = [self.keep[s] for value in copies for s in value.slots]
        classes = solve(relation, slots, self.split)
        gone = np.zeros(len(classes.frozen), bool)
        for mine, stays in zip(slots, kept, strict=True):
            gone[classes.of[mine[~stays]]] = True
        here = _Program(rules[0], ~gone[classes.of], self.grouped, self.split)
        same = all(
            (here.keep[mine] == stays).all()
            for mine, stays in zip(slots, kept, strict=True)
        )
        if not same or (gone & classes.frozen).any():
            raise ValueError(
                f"the derivative of {node.name} at {node.source} needs slots that the "
                "plan removes"
            )
        return rules, here

    def _small_map(self, node: Node, dtype: Any) -> np.ndarray:
        """The kept part of a correction, which has length 1 where it is constant."""
        (value,), array = node.outputs, self.maps[node]
        for axis, size in enumerate(value.shape):
            if array.shape[axis] == size:
                array = np.compress(self.kept(value, axis), array, axis)
            elif array.shape[axis] != 1:
                raise ValueError(
                    f"the correction for {node.name} at {node.source} has shape "
                    f"{array.shape}, its result here {value.shape}: fold the constants "
                    "at this input size"
                )
        return array.astype(dtype)

    def _check(self, node: Node, value: Value, array: Any) -> None:
        if jnp.shape(array) != self.shape(value):
            raise RuntimeError(
                f"the rule of {node.name!r} at {node.source} gives {jnp.shape(array)} "
                f"where {self.shape(value)} of {value.shape} should be left"
            )


def _program(
    fn: Callable, dense: PyTree, inputs: Sequence, removed: dict, fold: Fold
) -> tuple:
    """The program under the first choice of policies that suits the plan."""
    first = None
    for grouped, split in product(("within", "whole"), ("inner", "outer")):
        traced = Traced.of(dense, Relation(grouped))
        results = traced.add(fn, dense, jax.tree.map(_struct, inputs))
        classes = traced.solve(split)
        gone = np.zeros(len(classes.frozen), bool)
        for (path, axis), indices in removed.items():
            gone[classes.of[traced.slots[path][axis][indices]]] = True
        problem = _problem(traced, classes, gone, removed)
        if problem is None:
            tree = jax.tree.structure(results)
            (graph,), keep = traced.graphs, ~gone[classes.of]
            return _Program(graph, keep, grouped, split, _maps(graph, fold)), tree
        first = first or problem
    raise ValueError(first)


def _maps(graph: Graph, fold: Fold) -> dict[Node, np.ndarray]:
    """What to add to the results of operations."""
    if not fold.maps:
        return {}
    nodes = [node for node in graph.walk() if node.name in LINEAR]
    if max(fold.maps) >= len(nodes):
        raise ValueError(
            f"fold corrects the sum number {max(fold.maps)}, the function has "
            f"{len(nodes)}: it was made for another function"
        )
    return {nodes[number]: array for number, array in fold.maps.items()}


def _problem(traced, classes, gone, removed) -> str | None:
    """Why the plan does not suit the function, None if it does."""
    for path, axes in traced.slots.items():
        for axis, slots in enumerate(axes):
            of = classes.of[slots]
            lost = np.zeros(len(slots), bool)
            lost[removed.get((path, axis), [])] = True
            if len(slots) and lost.all():
                return f"the plan leaves nothing of axis {axis} of {path!r}"
            frozen = np.flatnonzero(lost & classes.frozen[of])
            if len(frozen):
                why = _why(traced, classes, of[frozen[0]])
                return f"{path!r} needs index {frozen[0]} of axis {axis}: {why}"
            torn = np.flatnonzero(gone[of] & ~lost)
            if len(torn):
                return (
                    f"the plan keeps index {torn[0]} of axis {axis} of {path!r} but "
                    "removes others that live and die with it"
                )
    return None


def _why(traced: Traced, classes: Any, index: int) -> str:
    for event in traced.relation.freezes:
        if (classes.of[event.slots] == index).any():
            node = event.node
            return f"{node.name} at {node.source}, {event.why}" if node else event.why
    return "an index used on its own"


def _dense(variables: PyTree, plan: Plan, removed: dict) -> PyTree:
    """The shapes that the dense variables had."""

    def dense(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        name = paths.name(path)
        if name not in plan.shapes:
            raise ValueError(f"the plan knows no leaf {name!r}")
        shape = tuple(plan.shapes[name])
        lost = (len(removed.get((name, axis), ())) for axis in range(len(shape)))
        small = tuple(n - k for n, k in zip(shape, lost, strict=True))
        if jnp.shape(leaf) != small:
            raise ValueError(
                f"{name!r} has shape {jnp.shape(leaf)}, the plan leaves {small}; "
                "call with plan.apply(variables)"
            )
        return jax.ShapeDtypeStruct(shape, leaf.dtype)

    return jax.tree.map_with_path(dense, variables)


def _struct(array: Any) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(array)
    weak = getattr(aval, "weak_type", False)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=weak)


def _signature(array: Any) -> tuple:
    struct = _struct(array)
    return struct.shape, struct.dtype, struct.weak_type
