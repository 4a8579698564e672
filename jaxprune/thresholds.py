"""The exact k-th smallest score over a whole pytree, without sorting or joining it.

Floats are compared as integers that rise with them, so subnormals count whatever the
hardware does to them in arithmetic. A search narrows an interval of these integers:

1. a sample puts two probes on both sides of where the answer should be;
2. one pass over the data counts what lies below each probe, and the density between
   them says where the next two go, until few scores are left between;
3. one pass takes these out, as the least and the greatest of each small group, which
   leaves the answer, or hardly more than that where a group had others between.

Each pass costs little more than reading the scores. Where the estimates are misled the
interval is cut into thirds instead, so the search always ends, and ends right.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.folds import GROUP, folded, total, whole
from jaxprune.keys import extent, from_key, key
from jaxprune.types import Array, Scores

_SMALL = 1 << 12
_SAMPLE = 1 << 17
_STRIDE = 256  # a sample has at least one score in so many
_DEVIATIONS = 4  # standard deviations from an estimate to the probes around it


def kth_smallest(scores: Scores, k: Array | int) -> Array:
    """The k-th smallest score of a pytree, counted from 0: sort(all scores)[k].

    Exact for every float dtype: −0 equals 0, subnormals and infinities have their
    place, NaN comes last. It works under jit, and on sharded leaves.

    Args:
      scores: a pytree of float arrays of any shapes, fewer than 2³¹ scores in all.
      k: which one, from 0; an integer, possibly traced. Clipped to what there is.

    Returns:
      A scalar of the widest dtype among the leaves.

    Raises:
      ValueError: the tree holds no scores, too many, or a leaf that is not of a float
        dtype; outside jit, also a NaN score.

    Example:
      >>> kth_smallest({"a": jnp.array([3.0, 1.0]), "b": jnp.array([[2.0]])}, 1)
      Array(2., dtype=float32)
    """
    leaves = checked(scores)
    k = jnp.clip(jnp.asarray(k, jnp.int32), 0, _size(leaves) - 1)
    return from_key(_search(leaves, k), jnp.result_type(*leaves))


def checked(scores: Scores) -> list[Array]:
    """The leaves that hold scores, once they are known to be usable.

    Raises:
      ValueError: as `kth_smallest`.

    Example:
      >>> checked({"a": jnp.ones(2), "b": jnp.ones((0, 3))})
      [Array([1., 1.], dtype=float32)]
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(scores)]
    for x in leaves:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"scores must be floats, got a leaf of {x.dtype}")
    leaves = [x for x in leaves if x.size]
    if not 0 < _size(leaves) < 2**31:
        raise ValueError(f"scores must number 1 to 2³¹ − 1, got {_size(leaves)}")
    nan = count_nan(leaves)
    if not isinstance(nan, jax.core.Tracer) and nan:
        raise ValueError(f"{nan} of {_size(leaves)} scores are NaN")
    return leaves


@jax.jit
def count_nan(scores: Scores) -> Array:
    """How many scores are NaN: an int32 scalar.

    Example:
      >>> int(count_nan({"a": jnp.array([jnp.nan, 1.0])}))
      1
    """
    leaves = whole(jax.tree.leaves(scores))
    return sum((total(jnp.isnan(x)) for x in leaves), jnp.int32(0))


class _Interval(NamedTuple):
    """What a search knows: lowest ≤ answer ≤ highest.

    Attributes:
      lowest: a key.
      highest: a key.
      below: how many keys are under `lowest`.
      upto: how many keys are up to `highest`.
      probes: two keys to count below, lowest < probe ≤ highest.
      few: so many keys between can be taken out.
    """

    lowest: Array
    highest: Array
    below: Array
    upto: Array
    probes: Array
    few: Array


def _size(leaves: list[Array]) -> int:
    return sum(x.size for x in leaves)


@jax.jit
def _search(leaves: list[Array], k: Array) -> Array:
    """The key of the k-th smallest."""
    wide = any(x.dtype == jnp.float64 for x in leaves)
    integer = jnp.int64 if wide else jnp.int32
    leaves = _joined(leaves, wide)
    size = _size(leaves)
    large = size > 4 * _SAMPLE
    lowest, highest = extent(integer)
    start = _Interval(
        lowest,
        highest,
        below=jnp.int32(0),
        upto=jnp.int32(size),
        probes=_sampled(leaves, k, wide) if large else _thirds(lowest, highest),
        few=jnp.int32(_few(size) if large else 0),
    )

    def step(now: _Interval) -> _Interval:
        # Tied to the interval, lest the keys of all leaves be made once and kept.
        data, now = lax.optimization_barrier((leaves, now))
        if not large:
            return _narrowed(data, now, k)
        return lax.cond(
            now.upto - now.below <= now.few, _settled, _narrowed, data, now, k
        )

    return lax.while_loop(lambda now: now.lowest < now.highest, step, start).lowest


def _narrowed(leaves: list[Array], now: _Interval, k: Array) -> _Interval:
    """The interval after a pass that counts below its probes."""
    counts = _count_below(leaves, now.probes)
    low = counts <= k
    lowest = jnp.max(jnp.where(low, now.probes, now.lowest))
    highest = jnp.min(jnp.where(low, now.highest, now.probes - 1))
    misled = _width(lowest, highest) > _width(now.lowest, now.highest) // 4 * 3
    probes = jnp.where(
        misled,
        _thirds(lowest, highest),
        _estimated(lowest, highest, now.probes, counts, k, _size(leaves)),
    )
    return _Interval(
        lowest,
        highest,
        below=jnp.max(jnp.where(low, counts, now.below)),
        upto=jnp.min(jnp.where(low, now.upto, counts)),
        probes=probes,
        few=now.few,
    )


def _settled(leaves: list[Array], now: _Interval, k: Array) -> _Interval:
    """The answer by a pass that takes out the keys of the interval, nearly all of them.

    Those it misses are below the answer, or above: of what is found the answer is not
    less than the one so many places before its own, and not greater than the one there.
    Where these differ, they are the next probes.
    """
    width = _width(now.lowest, now.highest)
    found = _extremes(leaves, now.lowest, now.highest)
    missed = now.upto - now.below - total(found <= width)
    place = k - now.below
    top = _kth_key(found, place, jnp.zeros_like(width), width)
    start = jnp.where(missed > 0, 0, top)
    bottom = _kth_key(found, place - missed, start, top)
    ends = jnp.clip(jnp.stack([bottom, top + 1]), 1, width)
    bottom, top = jnp.where(bottom == top, top, jnp.stack([jnp.zeros_like(top), width]))
    lowest, highest, first, second = (
        now.lowest + x.astype(now.lowest.dtype) for x in (bottom, top, *ends)
    )
    return now._replace(
        lowest=lowest,
        highest=highest,
        probes=jnp.stack([first, second]),
        few=now.few // 8,
    )


def _few(size: int) -> int:
    """So many in `size` hardly ever fall three into one group: few³ ≈ groups²."""
    return int((size / GROUP) ** (2 / 3))


def _joined(leaves: list[Array], wide: bool) -> list[Array]:
    """The leaves, but the small ones as one: hundreds would take long to compile."""
    small = [key(x, wide).ravel() for x in leaves if x.size < _SMALL]
    large = [x for x in leaves if x.size >= _SMALL]
    if not small:
        return large
    keys = jnp.concatenate(small)
    return [*large, from_key(keys, jnp.float64 if wide else jnp.float32)]


def _width(lowest: Array, highest: Array) -> Array:
    unsigned = jnp.uint64 if lowest.dtype.itemsize == 8 else jnp.uint32
    return highest.astype(unsigned) - lowest.astype(unsigned)


def _thirds(lowest: Array, highest: Array) -> Array:
    """Probes that cut the interval into three equal parts."""
    width = _width(lowest, highest)
    steps = (width + 2) // 3 * jnp.arange(1, 3, dtype=width.dtype)
    return lowest + jnp.clip(steps, 1, width).astype(lowest.dtype)


def _estimated(
    lowest: Array, highest: Array, probes: Array, counts: Array, k: Array, size: int
) -> Array:
    """Probes around where the k-th is, by the density between the last two.

    Were the keys uniform there, the k-th would lie the share w of the way from the one
    to the other, give or take √(w·(1 − w) / keys); beyond them less is known. Between
    them the density bends the more, the larger a part they are of all on their side.
    """
    keys = jnp.maximum(counts[1] - counts[0], 1).astype(jnp.float32)
    side = jnp.maximum(jnp.minimum(k, size - k), 1)
    where = (k - counts[0] + 0.5) / keys
    deviation = jnp.sqrt(jnp.maximum(where * (1 - where), 1 / keys) / keys)
    beyond = jnp.maximum(0, jnp.maximum(-where, where - 1))
    bend = jnp.minimum(keys / side, 1) / 5
    spread = _DEVIATIONS * deviation + bend + beyond / 4
    ends = where + spread * jnp.array([-1, 1], jnp.float32)
    between = _width(*probes).astype(jnp.float32)
    first = _width(lowest, probes[0]).astype(jnp.float32)
    offset = jnp.where(lowest > probes[0], -between, first) + ends * between
    width = _width(lowest, highest)
    offset = jnp.clip(offset, 0, width.astype(jnp.float32)).astype(width.dtype)
    offset += jnp.arange(2, dtype=width.dtype)  # lest the two be one
    return lowest + jnp.clip(offset, 1, width).astype(lowest.dtype)


def _sampled(leaves: list[Array], k: Array, wide: bool) -> Array:
    """Probes around the quantile of a sample of the keys."""
    size = _size(leaves)
    stride = min(_STRIDE, size // _SAMPLE)
    sample = _vector([_every(x, stride, wide) for x in leaves])
    fraction = k / size
    spread = _DEVIATIONS * jnp.sqrt(fraction * (1 - fraction) / sample.size)
    ends = fraction + spread * jnp.array([-1, 1], jnp.float32)
    ranks = (jnp.clip(ends, 0, 1) * (sample.size - 1)).astype(jnp.int32)
    return jax.vmap(lambda rank: _kth_key(sample, rank, *extent(sample.dtype)))(ranks)


def _kth_key(keys: Array, k: Array, lowest: Array, highest: Array) -> Array:
    """Of a vector of keys the k-th smallest, or the nearer end if it is not between."""

    def halve(interval):
        lowest, highest = interval
        middle = highest - (_width(lowest, highest) // 2).astype(keys.dtype)
        low = total(keys < middle) <= k
        return jnp.where(low, middle, lowest), jnp.where(low, highest, middle - 1)

    return lax.while_loop(lambda e: e[0] < e[1], halve, (lowest, highest))[0]


def _every(x: Array, stride: int, wide: bool) -> Array:
    """The keys of one score of each `stride` in a row.

    Which one changes by the golden ratio, so that they spread evenly over all axes.
    """
    turn = lax.iota(jnp.uint32, x.size // stride)
    part = turn * np.uint32(2654435769) >> 16  # the fraction of turn · 0.618…, in 2⁻¹⁶
    index = turn * stride + (part * stride >> 16)
    x = x.squeeze()  # or each axis of one would have indices as well
    return key(x[jnp.unravel_index(index, x.shape)], wide)


def _count_below(leaves: list[Array], probes: Array) -> Array:
    """How many keys are less than each of two probes, in one pass."""

    def below(x: Array) -> Array:
        keys = key(x, probes.dtype == jnp.int64)
        first, second = ((keys < probe).astype(jnp.int32) for probe in probes)
        return first + (second << 16)

    counts = jnp.zeros(2, jnp.int32)
    for x in leaves:
        for both in folded(x, jnp.add, below):
            halves = both & 0xFFFF, both >> 16
            counts += jnp.stack([total(half) for half in halves])
    return counts


def _extremes(leaves: list[Array], lowest: Array, highest: Array) -> Array:
    """The least and the greatest key in the interval of each group of scores.

    As one vector of what they are above `lowest`, with more than the interval's width
    where there is none, or no second one. Unsigned differences from its ends are within
    that width for the keys of the interval alone: all others wrap round.
    """
    width = _width(lowest, highest)
    wide = lowest.dtype == jnp.int64
    found = []
    for x in leaves:
        least = folded(x, jnp.minimum, lambda x: _width(lowest, key(x, wide)))
        greatest = folded(x, jnp.minimum, lambda x: _width(key(x, wide), highest))
        for above, under in zip(least, greatest, strict=True):
            one = above + under == width
            second = jnp.where(one, _greatest(width), width - under)
            found += [above.ravel(), second.ravel()]
    return _vector(found)


def _vector(parts: list[Array]) -> Array:
    """Vectors of keys as one, filled up to whole groups with the greatest integer."""
    filling = jnp.full(-_size(parts) % GROUP, _greatest(parts[0]))
    return jnp.concatenate([*parts, filling])


def _greatest(like: Array) -> Array:
    return jnp.array(jnp.iinfo(like.dtype).max, like.dtype)
