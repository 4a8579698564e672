"""Active stepwise pruning, an Optax transformation: prune, train, repair, in cycles."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import distributions, landing, leafwise, paths, scores, thresholds
from jaxprune import masks as masks_
from jaxprune.landing import Choice, Leaves, Weights
from jaxprune.schedules import Schedule
from jaxprune.types import Array, Predicate

Scope: TypeAlias = Literal["global", "leaf", "erk"] | tuple[int, int]

_SHARED_OUT = {
    "leaf": distributions.uniform,
    "erk": distributions.erdos_renyi_kernel,
}


def active_stepwise_pruning(
    schedule: Schedule,
    every: int,
    *,
    prunable: Predicate = paths.kernels,
    hysteresis: float = 0.1,
    hold: int = 5,
    recover: bool = True,
    score: scores.Score = scores.magnitude,
    scope: Scope = "global",
    floor: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Prunes weights step by step and repairs those that were pruned wrongly.

    Every `every` updates there is a cycle, k = 1, 2, …, K + hold. It prunes and repairs

        kept → pruned   where score < (1 − h)·τ
        pruned → kept   where score > (1 + h)·τ

    with the one τ that leaves exactly round(s_k · size) weights pruned, where s_k is
    the sparsity of the schedule. After the last cycle the masks stay as they are.

    A pruned weight is exactly 0 in the params, but lives on in the state as a dormant
    value that updates go on reaching; repaired, it comes back with that value. Nothing
    in the loss answers to where a dormant value goes, so no update moves it further
    than is usual among the kept weights of its leaf: the geometric mean of their
    moves, as the nearest power of two.

    Put it last in a chain: it turns the update that would be applied into one that
    lands on the mask. Kept weights move exactly as without it. Weight decay before it
    does not reach dormant values, since it sees zeros there.

    The abstract of Wang, Xing and Liu, *Efficient deep convolutional model compression
    with an active stepwise pruning approach* (IJCSE 2020), gives the logarithmic
    schedule and the alternation of pruning, repairing and training; the rule, the band
    and how dormant values move are our reading.

    Args:
      schedule: the sparsity of each cycle, such as `schedules.logarithmic`.
      every: updates from one cycle to the next, at least 1.
      prunable: chooses the leaves to prune, by path.
      hysteresis: h in [0, 1), half the width of the band.
      hold: further cycles at the final sparsity, which only exchange weights.
      recover: False for no repair: pruned once is pruned for ever, and there are no
        dormant values.
      score: how much a weight matters, from its value and its update.
      scope: "global" for one threshold; "leaf" for one in each leaf, to the same
        sparsity; "erk" for one in each leaf, to the share that
        `distributions.erdos_renyi_kernel` gives it at the sparsity of the cycle;
        (n, m) for the n largest of each m inputs, at each cycle, whatever the schedule
        says.
      floor: share of each leaf, in [0, 1), that a global threshold has to leave.

    Returns:
      A transformation with the state `StepwiseState`.

    Raises:
      ValueError: an argument is out of range; in `init`, `prunable` matches nothing,
        or "erk" has fewer weights to keep than leaves; in `update`, no params were
        given, or, outside jit, a score is NaN or a pruned weight is no longer zero
        because a later link changed the update. Under jit `sparsity` and
        `pruning_log` raise instead.

    Example:
      >>> import jaxprune as jp
      >>> schedule = jp.schedules.linear(final=0.5, steps=2)
      >>> tx = optax.chain(
      ...     optax.sgd(0.1),
      ...     active_stepwise_pruning(schedule, every=1, hold=0),
      ... )
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update({"kernel": jnp.zeros((2, 2))}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> params["kernel"], jp.sparsity(state)
      (Array([[0., 0.],
             [3., 4.]], dtype=float32), 0.5)
    """
    _validate(schedule, every, hysteresis, hold, scope, floor)
    cycles = schedule.steps + hold
    rule = Rule(schedule, cycles, hysteresis, recover, score, scope, floor)
    return landing.in_cycles(
        "active_stepwise_pruning",
        rule,
        every,
        cycles,
        prunable=prunable,
        start=rule.start,
        dormant=recover,
        columns=scope in _SHARED_OUT,
    )


@dataclass(frozen=True)
class Rule:
    """What one cycle of `active_stepwise_pruning` does; its arguments as there.

    Example:
      >>> from jaxprune import schedules
      >>> rule = Rule(schedules.one_shot(0.5), cycles=1)
      >>> kernel, kept = jnp.array([[1.0, 2.0]]), jnp.ones((1, 2), bool)
      >>> rule(1, Weights(["kernel"], [kept], [kernel], [0 * kernel])).masks
      [Array([[False,  True]], dtype=bool)]
    """

    schedule: Schedule
    cycles: int
    hysteresis: float = 0.0
    recover: bool = True
    score: scores.Score = scores.magnitude
    scope: Scope = "global"
    floor: float = 0.0

    def start(self, names: list[str], weights: Leaves) -> Leaves:
        """At first everything is kept, if what is asked for later is possible."""
        del names
        self.counts([w.shape for w in weights])
        return [jnp.ones_like(w, dtype=bool) for w in weights]

    def __call__(self, k: Array | int, now: Weights) -> Choice:
        """New masks by the scores of all weights, dormant ones included."""
        scored = scores.each(self.score, now.paths, now.values, now.updates)
        nans = thresholds.count_nan(scored)
        pairs = zip(now.masks, scored, strict=True)
        if self.recover:
            banded = [masks_.banded(m, x, self.hysteresis) for m, x in pairs]
            return Choice(*self.select(k, banded), nans)
        # What is pruned scores less than anything kept.
        masks, threshold = self.select(k, [jnp.where(m, x, -1) for m, x in pairs])
        return Choice(list(map(jnp.logical_and, now.masks, masks)), threshold, nans)

    def select(self, k: Array | int, scored: Leaves) -> tuple[Leaves, Array]:
        """The masks of cycle k, and the threshold or thresholds."""
        if isinstance(self.scope, tuple):
            return [masks_.n_of_m(x, *self.scope) for x in scored], jnp.zeros(())
        counts = jnp.asarray(self.counts([x.shape for x in scored]))[k - 1]
        if self.scope == "global":
            scored = _protected(scored, self.floor)
            cuts, above = thresholds.kth_smallest(scored, counts), masks_.above
        else:
            cuts, above = leafwise.kth_smallest(scored, counts), leafwise.above
        return above(scored, cuts, counts), jnp.maximum(cuts, 0).astype(jnp.float32)

    def counts(self, shapes: list[tuple[int, ...]]) -> np.ndarray:
        """How many weights to prune at each cycle, in all or (cycles, leaves)."""
        share = _SHARED_OUT.get(self.scope, _in_all)
        return np.array([share(shapes, s) for s in self.sparsities()], np.int32)

    def sparsities(self) -> list[float]:
        """Those of the cycles, as numbers also where jax is tracing."""
        steps = self.schedule.steps
        with jax.ensure_compile_time_eval():
            rise = [float(self.schedule(k)) for k in range(1, steps)]
        return rise + [self.schedule.final] * (self.cycles - steps + 1)


def _in_all(shapes: list[tuple[int, ...]], sparsity: float) -> int:
    return round(sparsity * sum(map(math.prod, shapes)))


def _protected(scored: Leaves, floor: float) -> Leaves:
    """Scores in which the largest of each leaf are out of any threshold's reach."""
    if not floor:
        return scored
    prune = [x.size - math.ceil(floor * x.size) for x in scored]
    safe = leafwise.all_but_smallest(scored, jnp.array(prune))
    return [jnp.where(keep, jnp.inf, x) for keep, x in zip(safe, scored, strict=True)]


def _validate(schedule, every, hysteresis, hold, scope, floor):
    if not isinstance(schedule, Schedule):
        raise ValueError(
            f"schedule must be a jaxprune.schedules.Schedule, got {schedule!r}"
        )
    if every < 1:
        raise ValueError(f"every must be at least 1 update, got {every}")
    if hold < 0:
        raise ValueError(f"hold must be at least 0 cycles, got {hold}")
    if not 0 <= hysteresis < 1:
        raise ValueError(f"hysteresis must be in [0, 1), got {hysteresis}")
    if isinstance(scope, tuple):
        if len(scope) != 2 or not 1 <= scope[0] < scope[1]:
            raise ValueError(f"scope (n, m) needs 1 ≤ n < m, got {scope}")
    elif scope not in ("global", "leaf", "erk"):
        raise ValueError(
            f'scope must be "global", "leaf", "erk" or (n, m), got {scope!r}'
        )
    if not 0 <= floor < 1 or floor + schedule.final > 1:
        raise ValueError(
            f"floor must be in [0, 1 − final sparsity {schedule.final}], got {floor}"
        )
