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


def group_soft_threshold(u: Array, t: Array | float, axis: int | tuple = -1) -> Array:
    """Shrinks whole groups, the proximal operator of t·Σ_g ‖x_g‖₂.

        x_g = u_g · max(1 − t / ‖u_g‖₂, 0)

    Yuan and Lin, *Model selection and estimation in regression with grouped variables*
    (2006).

    Args:
      u: any shape.
      t: the threshold, ≥ 0.
      axis: the axes that a group spans; all others number the groups.

    Returns:
      An array shaped like `u`; a group whose norm is at most t is exactly 0.

    Example:
      >>> group_soft_threshold(jnp.array([[3.0, 4.0], [0.3, 0.4]]), 1.0)
      Array([[2.4, 3.2],
             [0. , 0. ]], dtype=float32)
    """
    norm = jnp.sqrt(jnp.sum(jnp.square(u), axis, keepdims=True))
    return u * jnp.maximum(1 - t / jnp.where(norm > 0, norm, 1), 0)
