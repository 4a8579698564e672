"""Which leaf of the variables each leaf of a tree stands for, by structure.

A node of the tree corresponds to a node of the variables when every leaf below it lies
at the same relative path and has the same shape. An Adam state over
`variables["params"]` holds such nodes at `0/mu` and `0/nu`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from jaxprune.paths import name
from jaxprune.types import PyTree

Path = tuple[str, ...]
Shapes = Mapping[str, tuple[int, ...]]


def correspondence(tree: PyTree, shapes: Shapes, removed: Mapping) -> list[str | None]:
    """For each leaf of `tree`, in flattening order, the path it corresponds to.

    Args:
      tree: arrays, concrete or abstract.
      shapes: dense shape of each leaf of the variables, by path.
      removed: what those leaves lose; correspondences that lose the same are not
        ambiguous.

    Returns:
      A path, or None for a leaf that corresponds to nothing (a step count, a key).

    Raises:
      ValueError: nothing corresponds, a shape differs, or a node is ambiguous.
    """
    entries = jax.tree.leaves_with_path(tree, is_leaf=_is_masked)
    items = [(_parts(name(path)), leaf) for path, leaf in entries]
    found: list[str | None] = [None] * len(items)
    _Matcher(shapes, removed, items, found).visit((), range(len(items)))
    arrays = [i for i, (_, leaf) in enumerate(items) if not _is_masked(leaf)]
    with_axes = [i for i in arrays if np.ndim(items[i][1])]
    if with_axes and not any(found):
        path, leaf = items[with_axes[0]]
        some, shape = next(iter(shapes.items()))
        raise ValueError(
            f"nothing here is shaped like the variables: {'/'.join(path)!r} "
            f"{np.shape(leaf)} and {len(with_axes) - 1} other arrays match no leaf of "
            f"the plan ({some!r} {shape}, …)"
        )
    return [found[i] for i in arrays]


class _Matcher:
    """Walks the tree from its root; a node that corresponds settles all below it."""

    def __init__(self, shapes: Shapes, removed: Mapping, items: list, found: list):
        self.shapes = {_parts(path): tuple(shape) for path, shape in shapes.items()}
        self.removed = removed
        self.items = items
        self.found = found
        self.below = Counter(
            path[:depth] for path in self.shapes for depth in range(len(path) + 1)
        )
        self.roots: dict[Path, list[Path]] = {}
        for path in self.shapes:
            for depth in range(len(path) + 1):
                self.roots.setdefault(path[depth:], []).append(path[:depth])

    def visit(self, node: Path, inside: Any) -> None:
        """Settles the leaves `inside` (their indices), all of them below `node`."""
        tails = {i: self.items[i][0][len(node) :] for i in inside}
        arrays = [i for i in tails if not _is_masked(self.items[i][1])]
        if not arrays:
            return
        if any(tails.values()):
            roots = [
                r for r in self.roots.get(tails[arrays[0]], ()) if self._holds(r, tails)
            ]
        else:
            roots = [r for r in self.roots.get((), ()) if r[-1:] == node[-1:]]
        fitting = [r for r in roots if not self._misfit(r, tails, arrays)]
        if fitting:
            best = max(self._rank(r, node, tails) for r in fitting)
            self._settle(
                node, tails, [r for r in fitting if self._rank(r, node, tails) == best]
            )
            return
        for root in roots:
            if len(tails) > 1 and self._covers(root, tails):
                raise ValueError(self._misfit(root, tails, arrays))
        children: dict[Path, list[int]] = {}
        for i, tail in tails.items():
            if tail:
                children.setdefault(node + tail[:1], []).append(i)
        for child, below in children.items():
            self.visit(child, below)

    def _holds(self, root: Path, tails: Mapping[int, Path]) -> bool:
        """Whether `root` has a leaf at each path, and a node at each masked one."""
        return all(
            root + tail in (self.below if _is_masked(self.items[i][1]) else self.shapes)
            for i, tail in tails.items()
        )

    def _misfit(self, root: Path, tails: Mapping[int, Path], arrays: list) -> str:
        """The first array whose shape contradicts the dense one, in words, or ''.

        Leading axes and one number per leaf are no contradiction.
        """
        for i in arrays:
            path, leaf = self.items[i]
            shape, dense = np.shape(leaf), self.shapes[root + tails[i]]
            if shape[len(shape) - len(dense) :] != dense and np.prod(shape) != 1:
                return (
                    f"{'/'.join(path)!r} has shape {shape}, but "
                    f"{'/'.join(root + tails[i])!r} is {dense} in the dense network"
                )
        return ""

    def _covers(self, root: Path, tails: Mapping[int, Path]) -> bool:
        return (
            sum(self.below[root + tail] for tail in tails.values()) == self.below[root]
        )

    def _rank(self, root: Path, node: Path, tails: Mapping[int, Path]) -> tuple:
        """Better: the whole of `root` is there; then the longer common end of names."""
        pairs = zip(reversed(root), reversed(node), strict=False)
        differing = [i for i, (a, b) in enumerate(pairs) if a != b]
        common = differing[0] if differing else min(len(root), len(node))
        return self._covers(root, tails), common

    def _settle(self, node: Path, tails: Mapping[int, Path], roots: list) -> None:
        for i, tail in tails.items():
            leaf = self.items[i][1]
            if _is_masked(leaf) or np.ndim(leaf) < len(self.shapes[roots[0] + tail]):
                continue
            paths = ["/".join(root + tail) for root in roots]
            losses = [self.removed.get(path) for path in paths]
            if any(loss != losses[0] for loss in losses):
                raise ValueError(
                    f"{'/'.join(node + tail)!r} could stand for {paths[0]!r} or for "
                    f"{paths[1]!r}, which lose different slots: apply the plan to a "
                    "larger part of the tree, or to parts named like the variables"
                )
            self.found[i] = paths[0]


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)


def _parts(path: str) -> Path:
    return tuple(path.split("/")) if path else ()
