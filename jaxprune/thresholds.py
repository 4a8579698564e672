"""The exact k-th smallest score over a whole pytree, without sorting or joining it.

Floats are compared as integers that rise with them, so subnormals count whatever the
hardware does to them in arithmetic. A search narrows an interval of these integers: one
pass over the data counts what lies below each of a few probes, and the probes are set
where the counts so far say the answer is. A sample sets the first ones.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.types import Array, Scores

_PROBES = 4
_BITS = 8  # of the counter that each probe has within one int32
_FOLDS = 16, 8  # so many scores are counted into one int32, where _BITS hold them
_SMALL = 1 << 12
_SAMPLE = 1 << 17
_SPREAD = np.array([-3.0, -0.6, 0.6, 3.0], np.float32)  # standard deviations


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


def key(x: Array, wide: bool = False) -> Array:
    """Integers that compare as the floats do: int32, or int64 if `wide`.

    Negative floats are mirrored, −0 and 0 both give 0, NaN is above infinity.

    Example:
      >>> key(jnp.array([-1.0, -0.0, 0.0, jnp.inf]))
      Array([-1065353216,           0,           0,  2139095040], dtype=int32)
    """
    bits = _bits(x, wide)
    lowest = jnp.iinfo(bits.dtype).min
    ordered = jnp.where(bits < 0, lowest - bits, bits)
    below_infinity = -_infinity(bits.dtype)
    return jnp.where(ordered < below_infinity, jnp.iinfo(bits.dtype).max, ordered)


def from_key(keys: Array, dtype: jnp.dtype) -> Array:
    """The floats that `key` made these integers from; 0 for both zeros.

    Example:
      >>> from_key(key(jnp.array([-1.5, 2.0])), jnp.float32)
      Array([-1.5,  2. ], dtype=float32)
    """
    lowest = jnp.iinfo(keys.dtype).min
    bits = jnp.where(keys < 0, lowest - keys, keys)
    return _from_bits(bits, dtype)


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


def count_nan(scores: Scores) -> Array:
    """How many scores are NaN: an int32 scalar.

    Example:
      >>> int(count_nan({"a": jnp.array([jnp.nan, 1.0])}))
      1
    """
    leaves = jax.tree.leaves(scores)
    return sum((_total(jnp.isnan(x)) for x in leaves), jnp.int32(0))


def _size(leaves: list[Array]) -> int:
    return sum(x.size for x in leaves)


@jax.jit
def _search(leaves: list[Array], k: Array) -> Array:
    """The key of the k-th smallest.

    The answer stays within lowest ≤ answer ≤ highest, with `below` keys under `lowest`
    and `upto` keys up to `highest`.
    """
    wide = any(x.dtype == jnp.float64 for x in leaves)
    integer = jnp.int64 if wide else jnp.int32
    lowest = jnp.array(-_infinity(integer), integer)
    highest = jnp.array(jnp.iinfo(integer).max, integer)

    def narrow(state):
        lowest, highest, below, upto, probes = state
        # Tied to the probes, lest the keys of all leaves be made once and kept.
        counts = _count_below(*lax.optimization_barrier((leaves, probes)))
        low = counts <= k
        width = _width(lowest, highest)
        lowest = jnp.max(jnp.where(low, probes, lowest))
        highest = jnp.min(jnp.where(low, highest, probes - 1))
        below = jnp.max(jnp.where(low, counts, below))
        upto = jnp.min(jnp.where(low, upto, counts))
        probes = jnp.where(
            _width(lowest, highest) < width // 4,
            _interpolated(lowest, highest, below, upto, k),
            _evenly(lowest, highest),
        )
        return lowest, highest, below, upto, probes

    size = _size(leaves)
    leaves = _joined(leaves, wide)
    first = _evenly(lowest, highest)
    if size > 4 * _SAMPLE:
        first = _sampled(leaves, k / size, wide)
    state = lowest, highest, jnp.int32(0), jnp.int32(size), first
    return lax.while_loop(lambda s: s[0] < s[1], narrow, state)[0]


def _joined(leaves: list[Array], wide: bool) -> list[Array]:
    """The leaves, but the small ones as one: hundreds would take long to compile."""
    small = [key(x, wide).ravel() for x in leaves if x.size < _SMALL]
    large = [x for x in leaves if x.size >= _SMALL]
    if not small:
        return large
    keys = jnp.concatenate(small)
    return [*large, from_key(keys, jnp.float64 if wide else jnp.float32)]


def _width(lowest: Array, highest: Array) -> Array:
    unsigned = jnp.uint64 if lowest.dtype == jnp.int64 else jnp.uint32
    return highest.astype(unsigned) - lowest.astype(unsigned)


def _evenly(lowest: Array, highest: Array) -> Array:
    """Probes that cut the interval into equal parts."""
    width = _width(lowest, highest)
    parts = _PROBES + 1
    steps = (width + parts - 1) // parts * jnp.arange(1, parts, dtype=width.dtype)
    return lowest + jnp.clip(steps, 1, width).astype(lowest.dtype)


def _interpolated(
    lowest: Array, highest: Array, below: Array, upto: Array, k: Array
) -> Array:
    """Probes around where the k-th is, were the keys uniform in the interval."""
    inside = (upto - below).astype(jnp.float32)
    width = _width(lowest, highest)
    where = (k - below + 0.5) / inside
    spread = jnp.sqrt(where * (1 - where) / inside) * _SPREAD
    offset = jnp.clip(where + spread, 0, 1) * width.astype(jnp.float32)
    return lowest + jnp.clip(offset.astype(width.dtype), 1, width).astype(lowest.dtype)


def _sampled(leaves: list[Array], fraction: Array, wide: bool) -> Array:
    """Probes around the quantile of a sample of the keys."""
    stride = _size(leaves) // _SAMPLE
    sample = jnp.sort(jnp.concatenate([_every(x, stride, wide) for x in leaves]))
    spread = jnp.sqrt(fraction * (1 - fraction) / sample.size) * _SPREAD
    ranks = jnp.clip(fraction + spread, 0, 1) * (sample.size - 1)
    return sample[ranks.astype(jnp.int32)]


def _every(x: Array, stride: int, wide: bool) -> Array:
    """The keys of about one score in `stride`, spread over all axes."""
    for axis in np.argsort(x.shape)[::-1]:
        step = min(stride, x.shape[axis])
        x = lax.slice_in_dim(x, step // 2, None, step, int(axis))
        stride = -(-stride // step)
    return key(x, wide).ravel()


def _count_below(leaves: list[Array], probes: Array) -> Array:
    """How many keys are less than each probe, in one pass."""
    wide = probes.dtype == jnp.int64
    counts = jnp.zeros(_PROBES, jnp.int32)
    for x in leaves:
        keys = key(x, wide)
        less = [(keys < probe).astype(jnp.int32) for probe in probes]
        packed = sum(one << (_BITS * j) for j, one in enumerate(less))
        for fold in _FOLDS:
            if any(size % fold == 0 for size in packed.shape):
                packed = jnp.sum(_folded(packed, fold), -2, dtype=jnp.int32)
                packed = lax.optimization_barrier(packed)
        less = [packed >> (_BITS * j) & (1 << _BITS) - 1 for j in range(_PROBES)]
        counts += jnp.stack([_total(one) for one in less])
    return counts


def _folded(x: Array, fold: int) -> Array:
    """Reshapes x to (…, fold, t) by splitting one axis and merging those after it.

    XLA vectorises a short sum over the last axis but one, and hardly any other sum of
    integers; an axis is only split so that a sharded leaf stays where it is.
    """
    axis = next(i for i, size in enumerate(x.shape) if size % fold == 0)
    *lead, size = x.shape[: axis + 1]
    trailing = math.prod(x.shape[axis + 1 :])
    if trailing < 64:
        return x.reshape(*lead, fold, size // fold * trailing)
    return x.reshape(*lead, size // fold, fold, trailing)


def _total(flags: Array) -> Array:
    """Their sum as int32, which XLA would make int64 where that is enabled."""
    return jnp.sum(flags, dtype=jnp.int32)


def _infinity(integer: jnp.dtype) -> int:
    floating = np.float64 if integer == jnp.int64 else np.float32
    return int(np.array(np.inf, floating).view(integer))


def _bits(x: Array, wide: bool) -> Array:
    if x.dtype == jnp.bfloat16:  # by hand: a conversion might flush subnormals
        half = lax.bitcast_convert_type(x, jnp.int16).astype(jnp.int32)
        x = lax.bitcast_convert_type(half << 16, jnp.float32)
    elif x.dtype.itemsize < 4:
        x = x.astype(jnp.float32)
    if wide:
        return lax.bitcast_convert_type(_widened(x), jnp.int64)
    return lax.bitcast_convert_type(x, jnp.int32)


def _widened(x: Array) -> Array:
    """float64, subnormals of float32 included."""
    if x.dtype == jnp.float64:
        return x
    bits = lax.bitcast_convert_type(x, jnp.int32)
    tiny = (bits & 0x007FFFFF) * 2.0**-149
    subnormal = bits & 0x7F800000 == 0
    return jnp.where(subnormal, jnp.where(bits < 0, -tiny, tiny), x.astype(jnp.float64))


def _from_bits(bits: Array, dtype: jnp.dtype) -> Array:
    if dtype == jnp.bfloat16:
        return lax.bitcast_convert_type((bits >> 16).astype(jnp.int16), dtype)
    same_size = jnp.float64 if bits.dtype == jnp.int64 else jnp.float32
    return lax.bitcast_convert_type(bits, same_size).astype(dtype)
