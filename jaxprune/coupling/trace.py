"""Which slots of which leaves live and die together, read from the jaxpr."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import paths
from jaxprune.coupling.causes import causes
from jaxprune.coupling.coupling import Coupling, Leaf
from jaxprune.coupling.graph import Graph, trace
from jaxprune.coupling.macs import cost
from jaxprune.coupling.registry import constrain
from jaxprune.coupling.relation import Policy, Relation
from jaxprune.coupling.solve import Classes, solve
from jaxprune.coupling.state import same_leaves
from jaxprune.types import Params, Predicate


@dataclass(eq=False)
class Traced:
    """Functions of the same variables, as graphs under one relation.

    Attributes:
      leaves: shape and dtype of each leaf, by path.
      slots: the slots of each leaf's axes, by path; all graphs share them.
      graphs: one for each function, in the order they were added.
      relation: what the operations demand.
    """

    leaves: dict[str, jax.ShapeDtypeStruct]
    slots: dict[str, tuple[np.ndarray, ...]]
    graphs: list[Graph]
    relation: Relation

    @classmethod
    def of(cls, variables: Params, relation: Relation) -> "Traced":
        """Labels the leaves of `variables`; no function yet."""
        named = [(paths.name(p), x) for p, x in jax.tree.leaves_with_path(variables)]
        leaves = {path: _struct(path, x) for path, x in named}
        if len(leaves) < len(named):
            raise ValueError("two leaves of the variables have the same path")
        slots = {
            path: tuple(map(relation.fresh, leaf.shape))
            for path, leaf in leaves.items()
        }
        return cls(leaves, slots, [], relation)

    def add(self, function: Callable, variables: Params, examples: Sequence) -> Any:
        """Adds `function(variables, *examples)`; returns its results' shapes."""
        graph, results = trace(function, variables, *examples)
        count = len(self.leaves)
        for value, slots in zip(graph.inputs, self.slots.values(), strict=False):
            value.slots = slots
        constrain(graph, self.relation)
        for value in graph.inputs[count:]:
            for slots in value.slots:
                self.relation.freeze(slots, None, "an input of the function")
        named = same_leaves(self.leaves, results)
        for value, leaf in zip(graph.outputs, named, strict=True):
            for axis, slots in enumerate(value.slots):
                if leaf is None:
                    self.relation.freeze(slots, None, "an output of the function")
                else:
                    self.relation.tie(self.slots[leaf][axis], slots)
        self.graphs.append(graph)
        return results

    def freeze(self, path: str, why: str) -> None:
        """Every slot of the leaf must stay."""
        for slots in self.slots[path]:
            self.relation.freeze(slots, None, why)

    def solve(self, split: Policy) -> Classes:
        """The classes of slots that live and die together."""
        return solve(self.relation, self.all_slots, split)

    @property
    def all_slots(self) -> list[np.ndarray]:
        """The slots of all axes of all leaves."""
        return [slots for axes in self.slots.values() for slots in axes]

    def unused(self) -> list[str]:
        """Leaves that no operation of any function takes."""
        taken = set()
        for graph in self.graphs:
            used = {v for node in graph.nodes for v in node.inputs}
            inputs = zip(graph.inputs, self.leaves, strict=False)
            taken.update(path for value, path in inputs if value in used)
        return [path for path in self.leaves if path not in taken]


def trace_coupling(
    fn: Callable,
    variables: Params,
    *examples: Any,
    also: Sequence[tuple[Callable, Sequence[Any]]] = (),
    protect: Predicate | None = None,
    split: Policy = "inner",
    grouped: Literal["within", "whole"] = "within",
) -> Coupling:
    """Finds which slots (leaf, axis, index) must live and die together.

    Each operation in the jaxpr of `fn(variables, *examples)` ties slots of what it
    takes to slots of what it gives; the connected components are the groups that can be
    removed. Inputs and outputs stay as they are, but for outputs that are leaves in a
    new state (batch statistics, gradients): results with the path's last parts and the
    shape of a leaf, which shrink with it. An operation without a rule freezes what it
    touches, and the coupling says so.

    Args:
      fn: pure function of the variables and some inputs.
      variables: any pytree of arrays, or of `jax.ShapeDtypeStruct`.
      *examples: the other inputs; only shapes and dtypes matter.
      also: more functions of the same variables, each with its examples, to be coupled
        jointly: the training function, say, that returns new statistics.
      protect: leaves of which nothing may go.
      split: where an axis is reshaped into several that could each lose slots (heads
        and their width, groups of a GroupNorm), whether the inner or the outer one may.
      grouped: whether a grouped convolution loses the same channels within every group,
        or whole groups. Depthwise ones always lose whole groups.

    Raises:
      ValueError: nothing can be pruned; the message says why.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> params = {"w": jnp.ones((3, 8)), "b": jnp.ones(8), "v": jnp.ones((8, 2))}
      >>> def mlp(params, x):
      ...     return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]
      >>> coupling = jp.trace_coupling(mlp, params, jnp.ones((1, 3)))
      >>> coupling.size
      8
      >>> keep = np.ones(9, bool)
      >>> keep[[2, 5]] = False
      >>> coupling.params(keep), coupling.macs(keep)
      (36, 30)
    """
    _check(split, grouped)
    traced = Traced.of(variables, Relation(grouped, derivatives=True))
    for function, inputs in ((fn, examples), *also):
        traced.add(function, variables, inputs)
    _freeze(traced, protect)
    coupling = _coupling(traced, traced.solve(split))
    if coupling.size == 0:
        raise ValueError(f"nothing can be pruned\n{coupling}")
    return coupling


def _freeze(traced: Traced, protect: Predicate | None) -> None:
    """Leaves of which nothing may go: no floats, protected, or used by no function."""
    for path, leaf in traced.leaves.items():
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            traced.freeze(path, f"of type {leaf.dtype}, not a float")
        elif protect is not None and protect(path, leaf):
            traced.freeze(path, "protected")
    for path in traced.unused():
        traced.freeze(path, "used by none of the functions traced")


def _coupling(traced: Traced, classes: Classes) -> Coupling:
    """What the classes of slots make of the leaves."""
    group = _number(classes, traced.all_slots)
    return Coupling(
        leaves={
            path: Leaf(x.shape, x.dtype, tuple(group[s] for s in traced.slots[path]))
            for path, x in traced.leaves.items()
        },
        size=int(group.max(initial=0)),
        frozen=causes(traced.relation, classes, traced.slots),
        graphs=tuple(traced.graphs),
        _group=group,
        _cost=cost(traced.graphs[0]),
    )


def _number(classes: Classes, slots: Sequence[np.ndarray]) -> np.ndarray:
    """The group of each slot: 1, 2, … in the order of the leaves, 0 where frozen."""
    met = np.concatenate([np.empty(0, int), *(classes.of[s] for s in slots)])
    free, first = np.unique(met[~classes.frozen[met]], return_index=True)
    group = np.zeros(len(classes.frozen), int)
    group[free[np.argsort(first)]] = np.arange(1, len(free) + 1)
    return group[classes.of]


def _check(split: str, grouped: str) -> None:
    if split not in ("inner", "outer"):
        raise ValueError(f"split must be 'inner' or 'outer', got {split!r}")
    if grouped not in ("within", "whole"):
        raise ValueError(f"grouped must be 'within' or 'whole', got {grouped!r}")


def _struct(path: str, leaf: Any) -> jax.ShapeDtypeStruct:
    if not hasattr(leaf, "dtype"):
        raise ValueError(f"variables must hold arrays, got {leaf!r} at {path!r}")
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
