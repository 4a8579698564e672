"""Max pooling with stride 2, with a derivative that a CPU runs fast.

    y[n, i, j, c]  = max_ab x[n, 2i + a − p, 2j + b − p, c]
    dx[n, u, v, c] = Σ_ab g[n, i, j, c]  where 2i + a − p = u, 2j + b − p = v, and
                     (a, b) is the first tap that has the maximum

XLA's CPU backend looks for the places of the maxima one by one, and scatters g.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from experiments.models.shifted import shifted, taps_of

_STRIDE = 2


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Array, window: int, padding: str) -> Array:
    """The greatest of each window × window pixels, every second one of both directions.

    Args:
      x: images, (N, H, W, C).
      window: 1 or more.
      padding: "SAME" or "VALID".

    Returns:
      (N, H', W', C).
    """
    return _pooled(x, window, padding)


def _pooled(x: Array, window: int, padding: str) -> Array:
    return nn.max_pool(x, (window, window), (_STRIDE, _STRIDE), padding)


def _forward(x: Array, window: int, padding: str):
    y = max_pool(x, window, padding)
    return y, (x, y)


def _backward(window: int, padding: str, saved: tuple[Array, Array], g: Array):
    def elsewhere(x, y, g):
        del y
        _, vjp = jax.vjp(lambda x: _pooled(x, window, padding), x)
        return vjp(g)[0]

    cpu = partial(_by_taps, window=window, padding=padding)
    return (lax.platform_dependent(*saved, g, cpu=cpu, default=elsewhere),)


max_pool.defvjp(_forward, _backward)


def _by_taps(x: Array, y: Array, g: Array, window: int, padding: str) -> Array:
    sides = (window, window), (_STRIDE, _STRIDE)
    pads = lax.padtype_to_pads(x.shape[1:3], *sides, padding)
    around = [(0, 0, 0), *[(before, after, 0) for before, after in pads], (0, 0, 0)]
    padded = lax.pad(x, jnp.array(-jnp.inf, x.dtype), around)
    dx, before = 0, jnp.zeros(y.shape, bool)
    for a, b in taps_of(window):
        here = shifted(padded, a, b, _STRIDE, y.shape[1:3]) == y
        dx += _spread(jnp.where(here & ~before, g, 0), a, b, padded.shape)
        before |= here
    inside = [(-low, -high, 0) for low, high, _ in around]
    return lax.pad(dx, jnp.zeros((), x.dtype), inside)


def _spread(g: Array, a: int, b: int, shape: tuple[int, ...]) -> Array:
    """The image of which g is `shifted(image, a, b)`, zero elsewhere."""
    ends = [
        size - start - _STRIDE * (n - 1) - 1
        for size, start, n in zip(shape[1:3], (a, b), g.shape[1:3], strict=True)
    ]
    inside = [(a, ends[0], _STRIDE - 1), (b, ends[1], _STRIDE - 1)]
    return lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *inside, (0, 0, 0)])
