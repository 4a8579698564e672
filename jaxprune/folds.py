"""Reductions of integers and flags over large leaves, in a form that vectorises.

XLA's CPU compiler adds up bools and integers one by one. Short reductions along the
last axis but one it does in vectors, so a leaf is folded: reduced by groups, and the
groups' results again, until little is left.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxprune.types import Array

COUNTED = 64, 16, 4
"""Folds of what 16 bits can count."""

_FOLD = 64
_LARGE = 1 << 12


def total(flags: Array) -> Array:
    """How many flags are set: an int32 scalar.

    Folded once, and only where it is large, since each fold has to be compiled.

    Example:
      >>> int(total(jnp.array([True, False, True])))
      2
    """
    counts = flags.astype(jnp.int32)
    if flags.size >= _LARGE:
        counts = folded(counts, jnp.add, [_FOLD])
    return jnp.sum(counts, dtype=jnp.int32)  # int64 otherwise, where that is enabled


def whole(leaves: Sequence[Array]) -> list[Array]:
    """The leaves; one that cannot be folded is split into a part that can, and a rest.

    An axis is only cut if none can be folded, so that a sharded leaf stays in place.

    Example:
      >>> [x.shape for x in whole([jnp.ones((5, 64)), jnp.ones((3, 70))])]
      [(5, 64), (3, 64), (3, 6)]
    """
    parts = []
    for x in leaves:
        longest = max(x.shape, default=0)
        if longest < _FOLD or any(size % _FOLD == 0 for size in x.shape):
            parts.append(x)
        else:
            even = longest // _FOLD * _FOLD
            parts += jnp.split(x, [even], x.shape.index(longest))
    return parts


def folded(x: Array, op: jnp.ufunc, folds: Sequence[int]) -> Array:
    """Reduces x by groups of each size in turn, along an axis that it divides, if any.

    Their axis is made the last but one, in (…, fold, t), by merging the axes after it:
    XLA vectorises a short reduction there, and hardly any other one of integers. Each
    half of a group by itself, since what is used twice is not fused into its use, which
    would be one long reduction again.

    Example:
      >>> folded(jnp.ones((64, 100), jnp.int32), jnp.add, (64, 4)).shape
      (1, 25)
    """
    for fold in folds:
        axis = next((i for i, size in enumerate(x.shape) if size % fold == 0), None)
        if axis is None:
            continue
        before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
        if math.prod(after) < 64:
            groups = x.reshape(*before, fold, -1)
        else:
            groups = x.reshape(*before, size // fold, fold, math.prod(after))
        halves = jnp.split(groups, 2, -2)
        x = op(*(op.reduce(half, -2).astype(x.dtype) for half in halves))
    return x


@jax.jit
def count(leaves: Sequence[Array]) -> Array:
    """How many flags are set in all the leaves: an int32 scalar.

    Example:
      >>> int(count([jnp.array([True, False]), jnp.ones((2, 3), bool)]))
      7
    """
    return sum(map(total, whole(leaves)), jnp.int32(0))
