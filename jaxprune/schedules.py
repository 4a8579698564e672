"""How sparse to be at each pruning step: logarithmic, cubic, linear, one-shot."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp

from jaxprune.types import Array


@dataclass(frozen=True)
class Schedule:
    """A rise from 0 to the final sparsity: s_k = final · curve(k / steps).

    Called with a pruning step k, a number or an array, it gives the sparsity s_k; past
    the last step it stays at `final`.

    Attributes:
      final: the sparsity of the last step, in [0, 1).
      steps: K, how many pruning steps there are; at least 1.
      curve: an increasing function on [0, 1] with curve(0) = 0 and curve(1) = 1.
    """

    final: float
    steps: int
    curve: Callable[[Array], Array]

    def __post_init__(self):
        if not 0 <= self.final < 1:
            raise ValueError(f"the final sparsity must be in [0, 1), got {self.final}")
        if self.steps < 1 or self.steps != int(self.steps):
            raise ValueError(f"steps must be a whole number ≥ 1, got {self.steps}")

    def __call__(self, step: Array | float) -> Array:
        """The sparsity at pruning step `step`."""
        progress = jnp.clip(jnp.asarray(step, jnp.float32) / self.steps, 0, 1)
        return self.final * self.curve(progress)


def logarithmic(final: float, curvature: float, steps: int) -> Schedule:
    """Active stepwise pruning: s_k = final · ln(1 + a·k/K) / ln(1 + a).

    The abstract of Wang, Xing and Liu, *Efficient deep convolutional model compression
    with an active stepwise pruning approach* (IJCSE 2020), names a logarithmic function
    and three hyperparameters; the formula is our reading.

    Args:
      final: final sparsity, in [0, 1).
      curvature: a > 0. The slope at the start is 1 + a times that at the end; at half
        the steps a = 10 has reached 0.75 of `final`, a = 100 0.85.
      steps: K, the number of pruning steps.

    Returns:
      A schedule.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> schedule = logarithmic(final=0.8, curvature=10, steps=4)
      >>> [round(float(schedule(k)), 3) for k in range(5)]
      [0.0, 0.418, 0.598, 0.714, 0.8]
    """
    if not 0 < curvature < math.inf:
        raise ValueError(f"curvature must be positive and finite, got {curvature}")
    return Schedule(
        final, steps, lambda x: jnp.log1p(curvature * x) / math.log1p(curvature)
    )


def cubic(final: float, steps: int) -> Schedule:
    """Gradual pruning: s_k = final · (1 − (1 − k/K)³).

    Zhu and Gupta, *To prune, or not to prune* (2017), starting from a dense network.

    Args:
      final: final sparsity, in [0, 1).
      steps: K, the number of pruning steps.

    Returns:
      A schedule.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> float(cubic(final=0.8, steps=4)(2))
      0.699999988079071
    """
    return Schedule(final, steps, lambda x: 1 - (1 - x) ** 3)


def linear(final: float, steps: int) -> Schedule:
    """Equal steps: s_k = final · k/K.

    Args:
      final: final sparsity, in [0, 1).
      steps: K, the number of pruning steps.

    Returns:
      A schedule.

    Raises:
      ValueError: an argument is out of range.

    Example:
      >>> float(linear(final=0.5, steps=4)(2))
      0.25
    """
    return Schedule(final, steps, lambda x: x)


def one_shot(final: float) -> Schedule:
    """Everything in one step.

    Args:
      final: final sparsity, in [0, 1).

    Returns:
      A schedule of one step.

    Raises:
      ValueError: `final` is out of range.

    Example:
      >>> float(one_shot(final=0.5)(1))
      0.5
    """
    return linear(final, steps=1)
