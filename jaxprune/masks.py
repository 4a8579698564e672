"""Which weights are kept: exact counts, a band, n of m; apply and count.

A mask is True where a weight is kept. Leaves that are not pruned at all have
`optax.MaskedNode()` in place of a mask.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune import folds, thresholds
from jaxprune.types import Array, Masks, Params, Scores


def banded(mask: Array, score: Array, hysteresis: float) -> Array:
    """Scores in a band: kept weights have to fall lower than pruned ones have to rise.

        x / (1 − h) where kept, x / (1 + h) where pruned

    Compared with one threshold τ, a kept weight goes where x < (1 − h)·τ and a pruned
    one comes back where x > (1 + h)·τ: with h = 0.1 the two thresholds of Guo et al.,
    *Dynamic network surgery* (2016). A weight near the threshold does not flicker, and
    the k smallest are still k.

    Args:
      mask: bool, what is kept so far.
      score: non-negative, shaped like `mask`.
      hysteresis: h in [0, 1).

    Returns:
      Scores shaped like `mask`.

    Example:
      >>> mask = jnp.array([True, True, False, False])
      >>> score = jnp.array([0.95, 0.8, 1.05, 2.0])
      >>> banded(mask, score, 0.1) > 1.0
      Array([ True, False, False,  True], dtype=bool)
    """
    return jnp.where(mask, score / (1 - hysteresis), score / (1 + hysteresis))


def all_but_smallest(scores: Scores, k: Array | int) -> Masks:
    """Prunes exactly the k smallest scores of the whole pytree.

    They are the first k of a stable sort: of equal scores those in earlier leaves, and
    in a leaf those at earlier positions, go first.

    Args:
      scores: a pytree of float arrays.
      k: how many to prune; an integer, possibly traced.

    Returns:
      Masks shaped like `scores`.

    Raises:
      ValueError: as `thresholds.kth_smallest`.

    Example:
      >>> all_but_smallest({"a": jnp.array([2.0, 1.0]), "b": jnp.array([1.0])}, 1)
      {'a': Array([ True, False], dtype=bool), 'b': Array([ True], dtype=bool)}
    """
    leaves, structure = jax.tree.flatten(scores)
    kth = thresholds.kth_smallest(leaves, k)
    return jax.tree.unflatten(structure, above(leaves, kth, k))


def n_of_m(score: Array, n: int, m: int, axis: int = -2) -> Array:
    """Keeps the n largest scores of each m in a row along an axis.

    2 of 4 is what sparse tensor cores take: Mishra et al., *Accelerating sparse deep
    neural networks* (2021).

    Args:
      score: any shape with a multiple of m along `axis`.
      n: how many to keep, 1 ≤ n < m.
      m: out of how many.
      axis: by default −2, the inputs of a kernel shaped (…, in, out).

    Returns:
      A mask; of equal scores the later ones are kept.

    Raises:
      ValueError: n and m do not fit each other or the shape.

    Example:
      >>> n_of_m(jnp.array([[3.0], [1.0], [2.0], [4.0]]), 2, 4).ravel()
      Array([ True, False, False,  True], dtype=bool)
    """
    if not 1 <= n < m:
        raise ValueError(f"n of m needs 1 ≤ n < m, got n = {n}, m = {m}")
    if score.ndim < 1 or not -score.ndim <= axis < score.ndim or score.shape[axis] % m:
        raise ValueError(f"axis {axis} of shape {score.shape} is not a multiple of {m}")
    last = jnp.moveaxis(score, axis, -1)
    order = jnp.argsort(last.reshape(-1, m), -1, stable=True)
    rank = jnp.argsort(order, -1)
    return jnp.moveaxis((rank >= m - n).reshape(last.shape), -1, axis)


def apply(params: Params, masks: Masks) -> Params:
    """m ⊙ w: exact zeros where a weight is pruned; other leaves as they are.

    Example:
      >>> apply({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})
      {'w': Array([1., 0.], dtype=float32)}
    """
    return jax.tree.map(
        lambda p, m: jnp.where(m, p, 0) if isinstance(m, jax.Array) else p,
        params,
        masks,
    )


def count(masks: Masks) -> Array:
    """How many weights are kept: an int32 scalar.

    Example:
      >>> int(count({"w": jnp.array([True, False])}))
      1
    """
    return folds.count(jax.tree.leaves(masks))


@jax.jit
def above(leaves: list[Array], kth: Array, k: Array | int) -> list[Array]:
    """The masks of `all_but_smallest` where the k-th smallest score is known.

    Example:
      >>> above([jnp.array([2.0, 1.0, 1.0])], jnp.float32(1.0), 1)
      [Array([ True, False,  True], dtype=bool)]
    """
    wide = kth.dtype == jnp.float64
    cut = thresholds.key(kth, wide)
    keys = [thresholds.key(x, wide) for x in leaves]
    below = sum(jnp.sum(x < cut, dtype=jnp.int32) for x in keys)
    spare = jnp.asarray(k, jnp.int32) - below  # of those equal to the cut, how many go
    kept = []
    for x in keys:
        kept.append((x > cut) | _all_but_first(x == cut, spare))
        spare -= jnp.sum(x == cut, dtype=jnp.int32)
    return kept


def _all_but_first(flags: Array, k: Array) -> Array:
    """Clears the first k True of `flags`; a running sum only where that needs one."""

    def running() -> Array:
        rank = jnp.cumsum(flags.ravel(), dtype=jnp.int32).reshape(flags.shape)
        return flags & (rank > k)

    some = (k > 0) & (k < jnp.sum(flags, dtype=jnp.int32))
    return lax.cond(some, running, lambda: flags & (k <= 0))
