"""Which results of a function are leaves of its variables in a new state."""

from collections.abc import Mapping
from typing import Any

import jax

from jaxprune import paths
from jaxprune.types import PyTree


def same_leaves(leaves: Mapping[str, Any], results: PyTree) -> list[str | None]:
    """For each leaf of `results`, the path of the variable it renews, or None.

    That is the one leaf of the same shape that shares most of the path's last parts, at
    least two, or the only one it has if that is a name: a position is none.
    `batch_stats/BatchNorm_0/mean` is renewed by `1/batch_stats/BatchNorm_0/mean`, and
    by `1/BatchNorm_0/mean`.

    Args:
      leaves: a struct with the shape of each variable, by path.
      results: what the function returns, as shapes.
    """
    parts = {path: path.split("/") for path in leaves}
    by_last: dict[str, list[str]] = {}
    for path, split in parts.items():
        by_last.setdefault(split[-1], []).append(path)

    def renewed(path: str, result: Any) -> str | None:
        here = path.split("/")
        shared = {
            leaf: _shared(here, parts[leaf])
            for leaf in by_last.get(here[-1], ())
            if leaves[leaf].shape == result.shape
        }
        most = max(shared.values(), default=0)
        best = [leaf for leaf, count in shared.items() if count == most]
        if len(best) == 1 and (most >= 2 or _is_name(parts[best[0]])):
            return best[0]
        return None

    return [renewed(paths.name(p), r) for p, r in jax.tree.leaves_with_path(results)]


def _is_name(path: list[str]) -> bool:
    """Whether a path is one part, and that neither empty nor a position."""
    return len(path) == 1 and bool(path[0]) and not path[0].isdigit()


def _shared(left: list[str], right: list[str]) -> int:
    """How many last parts two paths share."""
    count = 0
    for a, b in zip(reversed(left), reversed(right), strict=False):
        if a != b:
            break
        count += 1
    return count
