"""Reductions of integers and flags over large leaves, in a form that vectorises.

XLA's CPU compiler adds up bools and integers one by one. Reductions along the last axis
but one it does in vectors, if they are no longer than 16. So a leaf is folded: reduced
by groups, and the groups' results again, until little is left.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.types import Array

GROUP = 64
"""So many values `folded` makes one of."""

_ROWS = 16
_LARGE = 1 << 12


def total(flags: Array) -> Array:
    """How many flags are set, or the sum of small counts: an int32 scalar.

    Summed by groups first, only where it is large, since that has to be compiled.

    Example:
      >>> int(total(jnp.array([True, False, True])))
      2
    """
    counts = flags.astype(jnp.int32)
    groups = _grouped(counts, 2 * _ROWS) if flags.size >= _LARGE else None
    if groups is not None:  # by halves, lest the two sums be made one long one again
        counts = sum(_reduced(jnp.add, half) for half in jnp.split(groups, 2, -2))
    return jnp.sum(counts, dtype=jnp.int32)  # int64 otherwise, where that is enabled


def whole(leaves: Sequence[Array]) -> list[Array]:
    """The leaves; one that cannot be folded is split into a part that can, and a rest.

    An axis is only cut if none can be folded, so that a sharded leaf stays in place.

    Example:
      >>> [x.shape for x in whole([jnp.ones((640, 9)), jnp.ones((650, 9))])]
      [(640, 9), (640, 9), (10, 9)]
    """
    parts = []
    for x in leaves:
        longest = max(x.shape, default=0)
        small = x.size < _LARGE or longest < GROUP
        if small or _cut(x.shape, GROUP) is not None:
            parts.append(x)
        else:
            even = longest // GROUP * GROUP
            parts += jnp.split(x, [even], x.shape.index(longest))
    return parts


def folded(x: Array, op: jnp.ufunc, of: Callable[[Array], Array]) -> list[Array]:
    """Reduces `of(x)` by groups of 64 along an axis.

    Sixteen rows of each group at a time, so that little is held in between. As `whole`,
    it leaves a rest only where no axis can be cut evenly. Small arrays stay as they
    are, since each loop has to be compiled.

    Args:
      x: an array.
      op: what makes one of two values.
      of: what to do with x first, element by element.

    Returns:
      The groups' results, and `of` the rest if there is one.

    Example:
      >>> [y.shape for y in folded(jnp.ones((70, 99)), jnp.add, lambda x: x)]
      [(70, 1), (70, 35)]
    """
    if x.size < _LARGE:
        return [of(x)]
    groups = _grouped(x, GROUP)
    if groups is not None:
        return [_by_rows(groups, groups.ndim - 2, op, of)]
    longest = max(x.shape, default=0)
    if longest < GROUP:
        return [of(x)]
    axis = x.shape.index(longest)
    rest = lax.slice_in_dim(x, longest // GROUP * GROUP, longest, axis=axis)
    return [_by_rows(x, axis, op, of), *([of(rest)] if rest.size else [])]


def _by_rows(x: Array, axis: int, op: jnp.ufunc, of: Callable[[Array], Array]) -> Array:
    """Of 64 parts of an axis, the first with the first of all others, and so on."""
    step = x.shape[axis] // GROUP * _ROWS
    shape = *x.shape[:axis], _ROWS, -1

    def part(i: Array | int) -> Array:
        rows = lax.dynamic_slice_in_dim(x, i * step, step, axis)
        return _reduced(op, of(rows).reshape(shape))

    parts = GROUP // _ROWS
    return lax.fori_loop(1, parts, lambda i, x: op(x, part(i)), part(0))


def _grouped(x: Array, group: int) -> Array | None:
    """In the form (…, group, t), by merging the axes after the one that is cut."""
    axis = _cut(x.shape, group)
    if axis is None:
        return None
    before, size, after = x.shape[:axis], x.shape[axis], math.prod(x.shape[axis + 1 :])
    if after < GROUP:
        return x.reshape(*before, group, -1)
    return x.reshape(*before, size // group, group, after)


def _cut(shape: tuple[int, ...], group: int) -> int | None:
    """The first axis that groups divide, and leave something long to vectorise."""
    for axis, size in enumerate(shape):
        if size % group == 0 and size // group * math.prod(shape[axis + 1 :]) >= _ROWS:
            return axis
    return None


def _reduced(op: jnp.ufunc, groups: Array) -> Array:
    return op.reduce(groups, -2).astype(groups.dtype)


@jax.jit
def count(leaves: Sequence[Array]) -> Array:
    """How many flags are set in all the leaves: an int32 scalar.

    Example:
      >>> int(count([jnp.array([True, False]), jnp.ones((2, 3), bool)]))
      7
    """
    return sum(map(total, whole(leaves)), jnp.int32(0))
