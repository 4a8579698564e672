"""The exact k-th smallest score of each leaf, by one search for all leaves.

`thresholds` looks for one threshold over a whole pytree. Here every leaf has its own:
one loop bisects all of them at once, so that it compiles once, however many there are.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune.folds import total
from jaxprune.keys import extent, from_key, key
from jaxprune.types import Array


@jax.jit
def kth_smallest(leaves: list[Array], ks: Array) -> Array:
    """For each leaf, sort(leaf)[k], in as many passes as a float has bits.

    Args:
      leaves: float arrays of any shapes, none empty.
      ks: an integer for each leaf, from 0; clipped to what there is.

    Returns:
      One score for each leaf, in the widest of their dtypes.

    Example:
      >>> kth_smallest([jnp.array([3.0, 1.0]), jnp.array([[2.0]])], jnp.array([1, 0]))
      Array([3., 2.], dtype=float32)
    """
    wide = any(x.dtype == jnp.float64 for x in leaves)
    integer, unsigned = (jnp.int64, jnp.uint64) if wide else (jnp.int32, jnp.uint32)
    ks = jnp.minimum(ks, jnp.array([x.size - 1 for x in leaves]))
    ends = extent(integer)
    lowest, highest = (jnp.full(len(leaves), end, integer) for end in ends)

    def halve(_, interval):
        lowest, highest = interval
        width = highest.astype(unsigned) - lowest.astype(unsigned)
        middle = lowest + (width // 2).astype(integer)
        # Tied to the middle, lest the keys of all leaves be made once and kept.
        held, cuts = lax.optimization_barrier((leaves, middle))
        keys = [key(x, wide) for x in held]
        upto = [total(x <= cut) for x, cut in zip(keys, cuts, strict=True)]
        higher = jnp.stack(upto) <= ks
        return jnp.where(higher, middle + 1, lowest), jnp.where(higher, highest, middle)

    bits = jnp.iinfo(integer).bits
    found, _ = lax.fori_loop(0, bits, halve, (lowest, highest))
    return from_key(found, jnp.result_type(*leaves))


@jax.jit
def above(leaves: list[Array], kths: Array, ks: Array) -> list[Array]:
    """The masks of `all_but_smallest` where the k-th smallest scores are known.

    Example:
      >>> above([jnp.array([2.0, 1.0, 1.0])], jnp.array([1.0]), jnp.array([1]))
      [Array([ True, False,  True], dtype=bool)]
    """
    wide = kths.dtype == jnp.float64
    keys = [key(x, wide) for x in leaves]
    cuts = key(kths, wide)
    ties = [x == cut for x, cut in zip(keys, cuts, strict=True)]
    below = [total(x < cut) for x, cut in zip(keys, cuts, strict=True)]
    first = _after(ties, ks - jnp.stack(below))
    return [
        (x > cut) | (tie & (_position(x) >= p))
        for x, cut, tie, p in zip(keys, cuts, ties, first, strict=True)
    ]


def all_but_smallest(leaves: list[Array], ks: Array) -> list[Array]:
    """Prunes exactly the k smallest scores of each leaf, of equal ones the first.

    Args:
      leaves: float arrays of any shapes, none empty.
      ks: how many of each to prune.

    Returns:
      A mask for each leaf.

    Example:
      >>> all_but_smallest([jnp.array([2.0, 1.0]), jnp.ones(2)], jnp.array([0, 1]))
      [Array([ True,  True], dtype=bool), Array([False,  True], dtype=bool)]
    """
    return above(leaves, kth_smallest(leaves, ks), ks)


def _after(flags: list[Array], counts: Array) -> Array:
    """The first position in each leaf that has so many flags before it.

    There is nothing to look for where none are asked for, or all that there are.
    """
    sizes = jnp.array([x.size for x in flags])
    every = counts >= jnp.stack(list(map(total, flags)))
    lowest = jnp.where((counts > 0) & every, sizes, 0)
    highest = jnp.where(counts > 0, sizes, 0)

    def halve(interval):
        lowest, highest = interval
        middle = lowest + (highest - lowest) // 2
        before = [x & (_position(x) < p) for x, p in zip(flags, middle, strict=True)]
        enough = jnp.stack(list(map(total, before))) >= counts
        return jnp.where(enough, lowest, middle + 1), jnp.where(enough, middle, highest)

    return lax.while_loop(lambda i: jnp.any(i[0] < i[1]), halve, (lowest, highest))[0]


def _position(x: Array) -> Array:
    return lax.iota(jnp.int32, x.size).reshape(x.shape)
