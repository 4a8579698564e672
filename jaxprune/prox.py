"""Proximal operators, array → array: prox(u) = argmin_x ½‖x − u‖² + penalty(x)."""

import jax.numpy as jnp

from jaxprune.types import Array


def soft_threshold(u: Array, t: Array | float) -> Array:
    """Soft thresholding, the proximal operator of t·‖x‖₁.

        S_t(u) = sign(u) · max(|u| − t, 0)

    Args:
      u: any shape.
      t: the threshold, ≥ 0; a number or anything that broadcasts against `u`.

    Returns:
      An array shaped like `u`, exactly 0 where |u| ≤ t.

    Example:
      >>> soft_threshold(jnp.array([-3.0, 0.5, 2.0]), 1.0)
      Array([-2.,  0.,  1.], dtype=float32)
    """
    return jnp.maximum(u - t, 0) + jnp.minimum(u + t, 0)
