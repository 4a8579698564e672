"""A plan as a value: which indices of which axes of which leaves go."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import jax
import numpy as np

from jaxprune.plan.fold import Fold
from jaxprune.plan.match import correspondence
from jaxprune.plan.slices import take, zero
from jaxprune.types import PyTree

Removed = Mapping[str, Mapping[int, tuple[int, ...]]]

_FORMAT = "jaxprune.plan/1"


@dataclass(frozen=True, repr=False)
class Plan:
    """Which indices of which axes of which leaves go.

    A plan knows nothing of groups, functions or devices: it compares equal when it
    removes the same things, hashes, prints, and goes through JSON unchanged.

    Attributes:
      shapes: dense shape of every leaf, by path.
      removed: for each path, for each axis, the indices that go, ascending. Leaves and
        axes that lose nothing do not appear.

    Raises:
      ValueError: an unknown path, axis or index, indices not ascending, or an axis that
        would be left without a single index.

    Example:
      >>> plan = Plan({"kernel": (2, 4), "bias": (4,)},
      ...             {"kernel": {1: (0, 3)}, "bias": {0: (0, 3)}})
      >>> plan.widths
      {'kernel': (2, 2), 'bias': (2,)}
      >>> small = plan.apply({"kernel": np.ones((2, 4)), "bias": np.arange(4.0)})
      >>> small["bias"]
      array([1., 2.])
      >>> Plan.from_json(plan.to_json()) == plan
      True
    """

    shapes: Mapping[str, tuple[int, ...]]
    removed: Removed

    def __post_init__(self) -> None:
        shapes = {path: tuple(map(int, s)) for path, s in self.shapes.items()}
        removed = {}
        for path, axes in self.removed.items():
            if path not in shapes:
                raise ValueError(f"a plan removes from {path!r}, which has no shape")
            kept = {
                int(axis): _checked(path, shapes[path], int(axis), indices)
                for axis, indices in sorted(axes.items())
                if len(indices)
            }
            if kept:
                removed[path] = kept
        object.__setattr__(self, "shapes", shapes)
        object.__setattr__(self, "removed", removed)

    @classmethod
    def from_keep(cls, coupling: Any, keep: np.ndarray) -> "Plan":
        """The plan that keeps the groups marked in `keep`.

        Args:
          coupling: what `jaxprune.trace_coupling` found.
          keep: bools of shape (coupling.size + 1,); `keep[0]`, the frozen slots, is
            True.

        Raises:
          ValueError: another shape, frozen slots removed, or an axis left empty.

        Example:
          >>> import jax.numpy as jnp, jaxprune as jp
          >>> mlp = lambda v, x: jnp.tanh(x @ v["in"]) @ v["out"]
          >>> v = {"in": jnp.ones((3, 2)), "out": jnp.ones((2, 1))}
          >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 3)))
          >>> Plan.from_keep(coupling, np.array([True, False, True])).removed
          {'in': {1: (0,)}, 'out': {0: (0,)}}
        """
        keep = np.asarray(keep, bool)
        if keep.shape != (coupling.size + 1,) or not keep[0]:
            raise ValueError(
                f"keep must have shape ({coupling.size + 1},) with keep[0] True, "
                f"got shape {keep.shape}"
            )
        removed = {
            path: {
                axis: tuple(np.flatnonzero(~keep[labels]).tolist())
                for axis, labels in enumerate(leaf.labels)
            }
            for path, leaf in coupling.leaves.items()
        }
        return cls(
            {path: leaf.shape for path, leaf in coupling.leaves.items()}, removed
        )

    def to_keep(self, coupling: Any) -> np.ndarray:
        """Which groups of `coupling` this plan keeps: the inverse of `from_keep`.

        Args:
          coupling: what `jaxprune.trace_coupling` found, at this plan's dense shapes.

        Returns:
          Bools of shape (coupling.size + 1,).

        Raises:
          ValueError: the plan belongs to other shapes, or takes a part of a group, or
            slots that are frozen.

        Example:
          >>> import jax.numpy as jnp, jaxprune as jp
          >>> mlp = lambda v, x: jnp.tanh(x @ v["in"]) @ v["out"]
          >>> v = {"in": jnp.ones((3, 2)), "out": jnp.ones((2, 1))}
          >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 3)))
          >>> keep = np.array([True, False, True])
          >>> Plan.from_keep(coupling, keep).to_keep(coupling)
          array([ True, False,  True])
        """
        keep = np.ones(coupling.size + 1, bool)
        for path, axes in self.removed.items():
            leaf = coupling.leaves.get(path)
            if leaf is None or tuple(leaf.shape) != self.shapes[path]:
                there = "is missing" if leaf is None else f"has shape {leaf.shape}"
                raise ValueError(
                    f"the plan has {path!r} with shape {self.shapes[path]}, which "
                    f"{there} in the coupling"
                )
            for axis, indices in axes.items():
                keep[leaf.labels[axis][list(indices)]] = False
        if not keep[0]:
            raise ValueError("the plan removes slots that are frozen in the coupling")
        if Plan.from_keep(coupling, keep).removed != self.removed:
            raise ValueError(
                "the plan removes a part of a group only: all its slots go or none"
            )
        return keep

    @property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """Shape of every leaf after removal, by path."""
        return {
            path: tuple(
                size - len(self.removed.get(path, {}).get(axis, ()))
                for axis, size in enumerate(shape)
            )
            for path, shape in self.shapes.items()
        }

    def then(self, following: "Plan") -> "Plan":
        """This plan, then `following` on what is left, as one plan.

        Args:
          following: a plan whose dense shapes are this one's `widths`.

        Raises:
          ValueError: it was made for other shapes; names the first leaf that differs.

        Example:
          >>> first = Plan({"w": (4,)}, {"w": {0: (0,)}})
          >>> first.then(Plan({"w": (3,)}, {"w": {0: (0,)}})).removed
          {'w': {0: (0, 1)}}
        """
        if following.shapes != self.widths:
            path = next(
                p
                for p in (*following.shapes, *self.shapes)
                if following.shapes.get(p) != self.widths.get(p)
            )
            raise ValueError(
                f"{path!r} is {self.widths.get(path)} after the first plan, "
                f"but the second one expects {following.shapes.get(path)}"
            )
        removed = {path: dict(axes) for path, axes in self.removed.items()}
        for path, axes in following.removed.items():
            mine = removed.setdefault(path, {})
            for axis, indices in axes.items():
                gone = mine.get(axis, ())
                left = np.delete(np.arange(self.shapes[path][axis]), gone)
                mine[axis] = tuple(sorted([*gone, *left[list(indices)].tolist()]))
        return Plan(self.shapes, removed)

    def apply(self, tree: PyTree, *, fold: Fold | None = None) -> PyTree:
        """`tree` without the removed slots.

        Takes anything that holds arrays shaped like the variables, found by structure:
        the variables, a part of them, averages, gradients, masks, the state of an Optax
        chain (`optax.masked`, `optax.partition` and `optax.MultiSteps` included), a
        train state around all of these. Abstract arrays (`jax.ShapeDtypeStruct`) give
        abstract arrays; sharded ones stay sharded on the axes whose new size the mesh
        still divides. Leading axes in front of a leaf's own (replicas, a history) are
        kept. What corresponds to no leaf of the plan stays as it is.

        Args:
          tree: dense arrays.
          fold: corrections for constants that go, `jaxprune.fold_constants`: added to
            dense leaves first. Only for the values that the network computes with, not
            for an optimizer's state.

        Raises:
          ValueError: no array corresponds to a leaf of the plan, one has another shape
            than the dense leaf, or two leaves fit equally well and lose other slots.

        Example:
          >>> plan = Plan({"w": (3,)}, {"w": {0: (1,)}})
          >>> plan.apply({"w": np.array([1.0, 2.0, 3.0]), "step": 7})
          {'step': 7, 'w': array([1., 3.])}
        """
        corrections = fold.leaves if fold else {}
        unknown = corrections.keys() - self.shapes.keys()
        if unknown:
            raise ValueError(f"fold names {min(unknown)!r}, which the plan has not")

        def small(leaf: Any, path: str) -> Any:
            if path in corrections:
                leaf = leaf + corrections[path].astype(leaf.dtype)
            return take(leaf, self._kept(path), len(self.shapes[path]))

        return self._map(small, tree)

    def mask(self, tree: PyTree) -> PyTree:
        """`tree` at its dense shapes, the removed slots set to zero.

        The network with these variables is what the small one has to equal; found and
        matched as in `apply`.

        Args:
          tree: dense arrays.

        Raises:
          ValueError: as `apply`.

        Example:
          >>> plan = Plan({"w": (3,)}, {"w": {0: (1,)}})
          >>> plan.mask({"w": np.array([1.0, 2.0, 3.0])})["w"].tolist()
          [1.0, 0.0, 3.0]
        """
        return self._map(
            lambda leaf, path: zero(leaf, self._kept(path), len(self.shapes[path])),
            tree,
        )

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(
            {
                "format": _FORMAT,
                "shapes": self.shapes,
                "removed": self.removed,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """The plan that `to_json` wrote.

        Args:
          text: JSON.

        Raises:
          ValueError: not JSON, not a plan, or a plan that contradicts itself.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"a plan must be JSON: {error}") from None
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise ValueError(f"not a plan: expected an object of format {_FORMAT!r}")
        try:
            return cls(
                {path: tuple(shape) for path, shape in data["shapes"].items()},
                {
                    path: {int(axis): tuple(gone) for axis, gone in axes.items()}
                    for path, axes in data["removed"].items()
                },
            )
        except (KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"damaged plan: {error!r}") from None

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __repr__(self) -> str:
        before, after = _entries(self.shapes), _entries(self.widths)
        return (
            f"Plan({len(self.removed)} of {len(self.shapes)} leaves shrink, "
            f"{before:,} → {after:,} entries)"
        )

    def __str__(self) -> str:
        widths = self.widths
        lines = (f"  {p}: {self.shapes[p]} → {widths[p]}" for p in self.removed)
        return "\n".join([repr(self), *lines])

    def _kept(self, path: str) -> dict[int, np.ndarray]:
        """Indices that stay, for each axis that loses some."""
        return {
            axis: np.delete(np.arange(self.shapes[path][axis]), indices)
            for axis, indices in self.removed.get(path, {}).items()
        }

    def _map(self, change: Any, tree: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(tree)
        paths = correspondence(tree, self.shapes, self.removed)
        changed = (
            leaf if path is None else change(leaf, path)
            for leaf, path in zip(leaves, paths, strict=True)
        )
        return jax.tree.unflatten(structure, changed)


def _checked(
    path: str, shape: tuple[int, ...], axis: int, indices: Iterable[int]
) -> tuple[int, ...]:
    indices = tuple(map(int, indices))
    if not 0 <= axis < len(shape):
        raise ValueError(f"{path!r} of shape {shape} has no axis {axis}")
    if any(a >= b for a, b in pairwise(indices)):
        raise ValueError(f"indices of {path!r} axis {axis} must ascend: {indices[:8]}…")
    if indices[0] < 0 or indices[-1] >= shape[axis]:
        raise ValueError(
            f"indices of {path!r} axis {axis} must lie in [0, {shape[axis]}), "
            f"got {indices[0]} … {indices[-1]}"
        )
    if len(indices) == shape[axis]:
        raise ValueError(
            f"{path!r} axis {axis} would lose all {shape[axis]} indices: keep at least "
            "one, or take the layer out of the model"
        )
    return indices


def _entries(shapes: Mapping[str, tuple[int, ...]]) -> int:
    return sum(int(np.prod(shape)) for shape in shapes.values())
