"""The result of tracing: groups of slots, what they cost, why others are frozen."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from jaxprune.coupling.causes import Frozen
from jaxprune.coupling.graph import Graph, Value
from jaxprune.coupling.macs import Cost
from jaxprune.types import Predicate


@dataclass(frozen=True, eq=False)
class Leaf:
    """A leaf of the variables.

    Attributes:
      shape: its dense shape.
      dtype: its dtype.
      labels: for each axis the group of each index, 0 where it is frozen.
    """

    shape: tuple[int, ...]
    dtype: Any
    labels: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Coupling:
    """Which slots live and die together.

    A slot is (leaf, axis, index). Each belongs to a group 1 … `size`, or to 0, which is
    frozen. What stays is told by `keep`, bools of shape (size + 1,), `keep[0]` True.

    Attributes:
      leaves: shape, dtype and labels of each leaf, by path.
      size: number of groups that can be removed.
      frozen: why slots are frozen, those for want of a rule first.
      graphs: the functions traced, the first one first, for passes of your own.
    """

    leaves: Mapping[str, Leaf]
    size: int
    frozen: tuple[Frozen, ...]
    graphs: tuple[Graph, ...]
    _group: np.ndarray = field(repr=False)
    _cost: Cost = field(repr=False)

    def labels(self, value: Value) -> tuple[np.ndarray, ...]:
        """For each axis of an array in `graphs` the group of each index.

        Args:
          value: an array of one of the graphs.

        Returns:
          Integers for each axis, one for each index: 1 … `size`, or 0 where frozen.
        """
        return tuple(self._group[slots] for slots in value.slots)

    def params(self, keep: np.ndarray, counted: Predicate | None = None) -> int:
        """Number of entries left in all leaves, or in those that `counted` chooses.

        Args:
          keep: bools of shape (size + 1,), `keep[0]` True.
          counted: which leaves count, `counted(path, leaf)`; all by default.

        Raises:
          ValueError: another shape or dtype, or frozen slots removed.
        """
        self._check(keep)
        return sum(
            prod(int(np.count_nonzero(keep[axis])) for axis in leaf.labels)
            for path, leaf in self.leaves.items()
            if counted is None or counted(path, leaf)
        )

    def macs(self, keep: np.ndarray) -> int:
        """Multiply-accumulates left in the first function, at the examples' shapes.

        Args:
          keep: bools of shape (size + 1,), `keep[0]` True.

        Raises:
          ValueError: another shape or dtype, or frozen slots removed.
        """
        self._check(keep)
        kept = keep[self._group]
        return self._cost(lambda slots: int(np.count_nonzero(kept[slots])))

    @property
    def slots(self) -> int:
        """Number of slots of all leaves."""
        return sum(sum(leaf.shape) for leaf in self.leaves.values())

    @property
    def prunable(self) -> int:
        """Number of slots that belong to a group."""
        axes = (axis for leaf in self.leaves.values() for axis in leaf.labels)
        return int(sum(map(np.count_nonzero, axes)))

    def explain(self, path: str) -> str:
        """What may go of the leaf at `path`, with what, and what not and why.

        Args:
          path: of a leaf, its parts joined by "/".

        Raises:
          ValueError: there is no such leaf.

        Example:
          >>> import jax.numpy as jnp, jaxprune as jp
          >>> def mlp(v, x):
          ...     return jnp.tanh(x @ v["in"]) @ v["out"]
          >>> v = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
          >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 3)))
          >>> print(coupling.explain("in"))  # doctest: +ELLIPSIS
          in (3, 8)
            axis 0: 0 of 3 can be pruned
            axis 1: 8 of 8 can be pruned
              8 groups, with out[0]
            frozen: ...
        """
        if path not in self.leaves:
            close = get_close_matches(path, self.leaves) or list(self.leaves)[:3]
            raise ValueError(f"no leaf {path!r}; there are {', '.join(close)}, …")
        leaf = self.leaves[path]
        lines = [f"{path} {leaf.shape}"]
        for axis, labels in enumerate(leaf.labels):
            free = np.count_nonzero(labels)
            lines.append(f"  axis {axis}: {free} of {len(labels)} can be pruned")
            lines += [
                f"    {count} groups, with {', '.join(others)}"
                for places, count in self._families.items()
                if (path, axis) in places
                and (others := [_place(p) for p in places if p != (path, axis)])
            ]
        lines += [f"  frozen: {f}" for f in self.frozen if path in f.leaves]
        return "\n".join(lines)

    def __str__(self) -> str:
        share = self.prunable / max(self.slots, 1)
        unknown = sum(f.unknown for f in self.frozen)
        lines = [
            f"{self.size:,} groups; {self.prunable:,} of {self.slots:,} slots in "
            f"{len(self.leaves)} leaves can be pruned ({share:.1%})"
        ]
        if unknown:
            lines.append(f"{unknown} reasons to freeze are only missing rules:")
        lines += [
            f"  {count:6,} × {', '.join(map(_place, places[:4]))}"
            + (f" and {len(places) - 4} more" if len(places) > 4 else "")
            for places, count in self._families.items()
        ]
        lines += [f"  frozen: {reason}" for reason in self.frozen]
        return "\n".join(lines)

    @cached_property
    def _families(self) -> dict[tuple[tuple[str, int], ...], int]:
        """How many groups there are for each set of (path, axis) they run through."""
        places: list[list[tuple[str, int]]] = [[] for _ in range(self.size + 1)]
        for path, leaf in self.leaves.items():
            for axis, labels in enumerate(leaf.labels):
                for group in np.unique(labels):
                    places[group].append((path, axis))
        return dict(Counter(map(tuple, places[1:])))

    def _check(self, keep: np.ndarray) -> None:
        if np.shape(keep) != (self.size + 1,) or np.asarray(keep).dtype != bool:
            raise ValueError(
                f"keep must be {self.size + 1} bools, got {np.asarray(keep).dtype} "
                f"of shape {np.shape(keep)}"
            )
        if not keep[0]:
            raise ValueError("keep[0] stands for the frozen slots and must be True")


def _place(place: tuple[str, int]) -> str:
    path, axis = place
    return f"{path}[{axis}]"
