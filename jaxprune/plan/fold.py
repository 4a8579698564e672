"""What makes up for constants that go with removed channels: a value."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

LINEAR = frozenset({"dot_general", "conv_general_dilated", "reduce_sum"})
"""Operations that sum over slots, and are understood."""


@dataclass(frozen=True, eq=False)
class Fold:
    """What makes up for constants that go with removed channels.

    `Plan.apply` adds the changes of leaves, `jaxprune.shrink` carries the maps.

    Attributes:
      leaves: what to add to dense leaves, by path.
      maps: what to add to results of operations, by the operation's position among
        the `LINEAR` ones of `Graph.walk`: the dense shape, with 1 for the axes along
        which it is constant.
    """

    leaves: Mapping[str, np.ndarray] = field(default_factory=dict)
    maps: Mapping[int, np.ndarray] = field(default_factory=dict)
