"""Why slots are frozen: which operation, on which line, holding which leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxprune.coupling.relation import Freeze, Relation
from jaxprune.coupling.solve import Classes


@dataclass(frozen=True)
class Frozen:
    """Slots of leaves that must stay, for one reason.

    Attributes:
      why: in words.
      primitive: the operation that needs them, "" for the function's boundary.
      source: the line that applies it, `"model.py:12"`; "" where unknown.
      leaves: paths of the leaves concerned.
      slots: how many of their slots; one slot can be frozen for several reasons.
      unknown: whether only because the tracer has no rule for the primitive.
    """

    why: str
    primitive: str
    source: str
    leaves: tuple[str, ...]
    slots: int
    unknown: bool

    def __str__(self) -> str:
        shown = ", ".join(self.leaves[:3])
        more = f" and {len(self.leaves) - 3} more" if len(self.leaves) > 3 else ""
        where = f" at {self.source}" if self.source else ""
        cause = f"{self.primitive}{where}: {self.why}" if self.primitive else self.why
        return f"{cause} ({self.slots:,} slots of {shown}{more})"


def causes(
    relation: Relation,
    classes: Classes,
    leaf_slots: Mapping[str, tuple[np.ndarray, ...]],
) -> tuple[Frozen, ...]:
    """The reasons that freeze slots of leaves, those for want of a rule first.

    Args:
      relation: holds the freezes.
      classes: which slots live and die together.
      leaf_slots: slots of each leaf's axes, by path.
    """
    alone = Freeze(np.concatenate(relation.single or [[]]).astype(int), "single index")
    inside = [e for e in (*relation.freezes, alone) if len(e.slots)]
    classes_of: dict[tuple, list[np.ndarray]] = {}
    for event in inside:
        found = classes.of[event.slots]
        found = np.unique(found[classes.carries[found]])
        if len(found):
            node = event.node
            key = (event.why, node.name, node.source) if node else (event.why, "", "")
            classes_of.setdefault((*key, event.unknown), []).append(found)
    leaves = _Leaves(classes, leaf_slots)
    reasons = [leaves.frozen(*key, found) for key, found in classes_of.items()]
    return tuple(sorted(reasons, key=lambda r: (not r.unknown, -r.slots)))


class _Leaves:
    """Counts the slots of leaves by class."""

    def __init__(self, classes: Classes, leaf_slots: Mapping):
        self.paths = list(leaf_slots)
        held = [
            classes.of[np.concatenate(axes)] if axes else np.empty(0, int)
            for axes in leaf_slots.values()
        ]
        of_class = np.concatenate(held)
        of_leaf = np.repeat(np.arange(len(held)), [len(h) for h in held])
        order = np.argsort(of_class, kind="stable")
        self.of_leaf = of_leaf[order]
        self.starts = np.searchsorted(of_class[order], np.arange(len(classes.frozen)))
        self.stops = np.searchsorted(
            of_class[order], np.arange(len(classes.frozen)), "right"
        )

    def frozen(
        self, why: str, primitive: str, source: str, unknown: bool, found: Sequence
    ) -> Frozen:
        hit = np.concatenate(
            [
                self.of_leaf[self.starts[c] : self.stops[c]]
                for c in np.unique(np.concatenate(found))
            ]
        )
        leaves = tuple(self.paths[i] for i in np.unique(hit))
        return Frozen(why, primitive, source, leaves, len(hit), unknown)
