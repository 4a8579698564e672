"""The training recipe of all experiments: SGD-Nesterov on a one-cycle schedule."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxprune import paths


def one_cycle(
    peak: float, steps: int, *, warm_up: float = 0.2, final: float = 0.01
) -> optax.Schedule:
    """Linear from `peak`/20 up to `peak`, linear down to `final` · `peak`.

    Args:
      peak: the highest learning rate.
      steps: length of the whole cycle, in updates.
      warm_up: share of the steps that go up, in (0, 1).
      final: the last learning rate, as a share of the peak.
    """
    if steps < 1:
        raise ValueError(f"a schedule needs 1 step or more, got {steps}")
    turn = warm_up * steps
    return lambda step: (
        peak
        * jnp.interp(
            jnp.asarray(step, jnp.float32),
            jnp.array([0.0, turn, float(steps)]),
            jnp.array([0.05, 1.0, final]),
        )
    )


def decayed(params: optax.Params) -> optax.Params:
    """True for kernels: batch norm and biases are left out of weight decay."""
    return jax.tree.map_with_path(lambda p, x: paths.kernels(paths.name(p), x), params)


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> optax.GradientTransformationExtraArgs:
    """SGD with Nesterov momentum and L2 decay of the kernels.

    Decay is taken from the params, where pruned weights are 0, so it does not reach
    dormant values.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay, decayed),
        optax.sgd(learning_rate, momentum=momentum, nesterov=True),
    )


def l1_subgradient(
    penalty: Callable[[str, jax.Array], float],
) -> optax.GradientTransformation:
    """Adds λ · sign(w), a subgradient of λ‖w‖₁, to the gradient.

    Liu et al., *Learning efficient convolutional networks through network slimming*
    (2017). Weights come near zero and hardly ever meet it.

    Args:
      penalty: λ, a function of path and leaf.
    """

    def update(updates, params):
        return jax.tree.map_with_path(
            lambda path, g, w: g + penalty(paths.name(path), w) * jnp.sign(w),
            updates,
            params,
        )

    return optax.stateless(update)
