"""From ties to groups: connected components, then the grids one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from jaxprune.coupling.relation import Freeze, Grid, Policy, Relation


@dataclass(eq=False)
class Classes:
    """Which slots live and die together.

    Attributes:
      of: the class of each slot.
      frozen: for each class, whether it must stay.
      carries: for each class, whether a slot of a leaf is in it.
    """

    of: np.ndarray
    frozen: np.ndarray
    carries: np.ndarray


def solve(
    relation: Relation, leaf_slots: Sequence[np.ndarray], split: Policy
) -> Classes:
    """The classes of slots that `relation` demands.

    Ties first, all at once. Then the grids: of the axes of a grid only one may lose
    slots, the others are frozen (and said to be, in `relation.freezes`). Taken in this
    order, to a fixed point: grids with one axis that is not frozen, or one along which
    the slots are tied already; merged axes of which one carries slots of leaves and the
    others only repeat it; axes that split,
    where it is a choice, by `split`; at last the other merged ones.

    Args:
      relation: ties, freezes and grids.
      leaf_slots: slots of the leaves, the ones that can be pruned.
      split: "inner" keeps the last candidate axis of a grid free, "outer" the first.
    """
    count, component = _components(relation)
    frozen = np.zeros(count, bool)
    carries = np.zeros(count, bool)
    for event in relation.freezes:
        frozen[component[event.slots]] = True
    for slots in relation.single:
        frozen[component[slots]] = True
    for slots in leaf_slots:
        carries[component[slots]] = True
    union = _Union(frozen, carries)
    _settle(relation, component, union, split)
    return Classes(union.root[component], union.frozen, union.carries)


def _components(relation: Relation) -> tuple[int, np.ndarray]:
    pairs = [(np.empty(0, np.int32),) * 2, *relation.ties]
    left, right = (np.concatenate(side) for side in zip(*pairs, strict=True))
    edges = coo_array(
        (np.ones(len(left), bool), (left, right)), (relation.size, relation.size)
    )
    return connected_components(edges, directed=False)


class _Union:
    """Classes that merge; the smaller one takes the name of the larger."""

    def __init__(self, frozen: np.ndarray, carries: np.ndarray):
        self.root = np.arange(len(frozen))
        self.frozen, self.carries = frozen, carries
        self._members: dict[int, list[int]] = {}

    def unite(self, left: np.ndarray, right: np.ndarray) -> None:
        """Merges the classes of `left` with those of `right`, pairwise."""
        for a, b in set(zip(left.tolist(), right.tolist(), strict=True)):
            a, b = int(self.root[a]), int(self.root[b])
            if a == b:
                continue
            few, many = sorted((a, b), key=lambda c: len(self._members.get(c, (c,))))
            moved = self._members.pop(few, [few])
            self._members.setdefault(many, [many]).extend(moved)
            self.root[moved] = many
            self.frozen[many] |= self.frozen[few]
            self.carries[many] |= self.carries[few]


def _settle(
    relation: Relation, component: np.ndarray, union: _Union, split: Policy
) -> None:
    """Settles all grids, the ones that leave no choice first."""
    grids = _Grids(relation, component, union, split)
    waiting, boldness = list(relation.grids), 0
    while waiting:
        loose = grids.loose(waiting) if boldness else None
        still = [grid for grid in waiting if not grids.settle(grid, boldness, loose)]
        boldness = 0 if len(still) < len(waiting) else boldness + 1
        waiting = still


@dataclass(frozen=True, eq=False)
class _Grids:
    relation: Relation
    component: np.ndarray
    union: _Union
    split: Policy

    def look(self, slots: np.ndarray) -> np.ndarray:
        return self.union.root[self.component[slots]]

    def all_frozen(self, slots: np.ndarray) -> bool:
        return bool(self.union.frozen[self.look(slots)].all())

    def loose(self, waiting: Sequence[Grid]) -> np.ndarray:
        """For each class, whether no leaf and at most one waiting grid holds it."""
        grids_of = np.zeros(len(self.union.root), np.int32)
        for grid in waiting:
            slots = np.concatenate([grid.flat, *grid.axes])
            grids_of[np.unique(self.look(slots))] += 1
        return (grids_of <= 1) & ~self.union.carries

    def settle(self, grid: Grid, boldness: int, loose: np.ndarray | None) -> bool:
        """Whether `grid` could be settled, with as much `boldness` as allowed."""
        axes = [i for i, a in enumerate(grid.axes) if not self.all_frozen(a)]
        if not axes or self.all_frozen(grid.flat):
            self.freeze(grid.flat, grid)
            self.freeze_but(None, grid)
            return True
        if len(axes) > 1 and boldness:
            axes = [i for i in axes if self.already(i, grid)] or axes
        if len(axes) > 1 and boldness and grid.merges:
            firm = [i for i in axes if not loose[self.look(grid.axes[i])].all()]
            held = [self.union.carries[self.look(grid.axes[i])].any() for i in firm]
            axes = firm if any(held) or (firm and boldness == 3) else axes
        if len(axes) > 1 and boldness < (3 if grid.merges else 2):
            return False
        self.free(axes[-1 if self.split == "inner" else 0], grid)
        return True

    def already(self, chosen: int, grid: Grid) -> bool:
        """Whether ties elsewhere make the flat axis lose slots along `chosen` only."""
        classes = self.look(grid.flat).reshape([len(a) for a in grid.axes])
        classes = np.moveaxis(classes, chosen, 0).reshape(len(grid.axes[chosen]), -1)
        return bool((classes == classes[:, :1]).all())

    def free(self, chosen: int, grid: Grid) -> None:
        """Lets only the axis `chosen` of the grid lose slots."""
        self.freeze_but(chosen, grid)
        others = tuple(i for i in range(len(grid.axes)) if i != chosen)
        column = np.expand_dims(grid.axes[chosen], others)
        along = np.broadcast_to(column, [len(a) for a in grid.axes]).ravel()
        self.union.unite(self.look(grid.flat), self.look(along))

    def freeze_but(self, chosen: int | None, grid: Grid) -> None:
        for i, axis in enumerate(grid.axes):
            if i != chosen:
                self.freeze(axis, grid)

    def freeze(self, slots: np.ndarray, grid: Grid) -> None:
        if not self.all_frozen(slots):
            why = "only one axis of a reshape may lose slots, and another does"
            self.relation.freezes.append(Freeze(slots, why, grid.node))
            self.union.frozen[self.look(slots)] = True
