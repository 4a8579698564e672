"""What to remove: a value, applied to anything shaped like the variables."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Which indices of which axes of which leaves go.

    Attributes:
      shapes: dense shape of every leaf, by path.
      removed: for each path, for each axis, the indices that go, ascending.
    """

    shapes: Mapping[str, tuple[int, ...]]
    removed: Mapping[str, Mapping[int, tuple[int, ...]]]
