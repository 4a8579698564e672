"""Active stepwise pruning, an Optax transformation: prune, train, repair, in cycles."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxprune import masks as masks_
from jaxprune import paths, scores, thresholds
from jaxprune.schedules import Schedule
from jaxprune.types import Array, Masks, Params, Predicate, PyTree

Scope: TypeAlias = Literal["global", "leaf"] | tuple[int, int]


Leaves: TypeAlias = list[Array]


class PruningLog(NamedTuple):
    """What each pruning cycle did; arrays with one entry for each cycle.

    Attributes:
      sparsity: share of the prunable weights that are pruned after the cycle.
      threshold: the score that separated them; one column for each leaf if the scope is
        "leaf", zero for n of m.
      pruned: how many weights were pruned.
      repaired: how many came back.
      nans: how many scores were NaN.
    """

    sparsity: Array
    threshold: Array
    pruned: Array
    repaired: Array
    nans: Array


class StepwiseState(NamedTuple):
    """State of `active_stepwise_pruning`.

    Attributes:
      step: how many updates there have been.
      masks: bool, shaped like the prunable params; True where kept. `optax.MaskedNode`
        in place of the other leaves, here and in `dormant`.
      dormant: the values of the pruned weights, 0 where a weight is kept.
      disturbed: how many pruned weights were found not to be zero in the params.
      cycles: how many pruning cycles there have been.
      log: what each cycle did.
    """

    step: Array
    masks: Masks
    dormant: Params
    disturbed: Array
    cycles: Array
    log: PruningLog


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

    Every `every` updates there is a cycle, k = 1, 2, …, K + hold. With the sparsity
    s_k of the schedule and τ the s_k-quantile of the scores of all prunable weights,

        kept → pruned   where score < (1 − h)·τ
        pruned → kept   where score > (1 + h)·τ

    A pruned weight is exactly 0 in the params, but lives on in the state as a dormant
    value that all updates reach; repaired, it comes back with that value. The last
    cycle prunes exactly the smallest, with no band, and the masks stay as they are: the
    network has exactly the number of zeros asked for, round(final · size).

    Put it last in a chain: it turns the update that would be applied into one that
    lands on the mask. Kept weights move exactly as without it. Weight decay before it
    does not reach dormant values, since it sees zeros there.

    The abstract of Wang, Xing and Liu, *Efficient deep convolutional model compression
    with an active stepwise pruning approach* (IJCSE 2020), gives the logarithmic
    schedule and the alternation of pruning, repairing and training; the rule, the band
    and the final exact cut are our reading.

    Args:
      schedule: the sparsity of each cycle, such as `schedules.logarithmic`.
      every: updates from one cycle to the next, at least 1.
      prunable: chooses the leaves to prune, by path.
      hysteresis: h in [0, 1), half the width of the band.
      hold: cycles at the final sparsity, the last of them exact; with 0 the last cycle
        of the schedule is the exact one.
      recover: False for no repair: pruned once is pruned for ever, and there are no
        dormant values.
      score: how much a weight matters, from its value and its update.
      scope: "global" for one threshold; "leaf" for one in each leaf; (n, m) for the n
        largest of each m inputs, at each cycle, whatever the schedule says.
      floor: share of each leaf, in [0, 1), that a global threshold has to leave.

    Returns:
      A transformation with the state `StepwiseState`.

    Raises:
      ValueError: an argument is out of range; in `init`, `prunable` matches nothing; in
        `update`, no params were given, or, outside jit, a score is NaN or a pruned
        weight is no longer zero because a later link changed the update. Under jit
        `sparsity` and `pruning_log` raise instead.

    Example:
      >>> from jaxprune import schedules
      >>> schedule = schedules.linear(final=0.5, steps=2)
      >>> tx = optax.chain(
      ...     optax.sgd(0.1),
      ...     active_stepwise_pruning(schedule, every=1, hold=0),
      ... )
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update({"kernel": jnp.zeros((2, 2))}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> params["kernel"], sparsity(state)
      (Array([[0., 0.],
             [3., 4.]], dtype=float32), 0.5)
    """
    _validate(schedule, every, hysteresis, hold, scope, floor)
    cycles = schedule.steps + hold

    def init(params: Params) -> StepwiseState:
        weights = _prunable(params, prunable)
        absent = jax.tree.map(lambda _: optax.MaskedNode(), weights)
        thresholds_shape = (cycles,)
        if scope == "leaf":
            thresholds_shape = (cycles, len(jax.tree.leaves(weights)))
        return StepwiseState(
            step=jnp.zeros((), jnp.int32),
            masks=jax.tree.map(lambda w: jnp.ones_like(w, dtype=bool), weights),
            dormant=jax.tree.map(jnp.zeros_like, weights) if recover else absent,
            disturbed=jnp.zeros((), jnp.int32),
            cycles=jnp.zeros((), jnp.int32),
            log=PruningLog(
                sparsity=jnp.zeros(cycles),
                threshold=jnp.zeros(thresholds_shape),
                pruned=jnp.zeros(cycles, jnp.int32),
                repaired=jnp.zeros(cycles, jnp.int32),
                nans=jnp.zeros(cycles, jnp.int32),
            ),
        )

    def select(masks: Leaves, scored: Leaves, sparsity: Array, exact: Array):
        """The masks of one cycle, and the thresholds."""
        if isinstance(scope, tuple):
            return [masks_.n_of_m(x, *scope) for x in scored], jnp.zeros(())
        if scope == "leaf":
            each = [
                cut([m], [x], sparsity, exact)
                for m, x in zip(masks, scored, strict=True)
            ]
            return [new for [new], _ in each], jnp.stack([tau for _, tau in each])
        return cut(masks, _protected(scored, floor), sparsity, exact)

    def cut(masks: Leaves, scored: Leaves, sparsity: Array, exact: Array):
        """The masks of one cycle under one threshold, and the threshold."""
        size = sum(x.size for x in scored)
        last = round(schedule.final * size)
        k = jnp.where(exact, last, jnp.round(sparsity * size).astype(jnp.int32))
        kth = thresholds.kth_smallest(scored, k)
        tau = jnp.maximum(kth, 0).astype(jnp.float32)
        new = _cond(
            exact,
            lambda: masks_.above(scored, kth, last),
            lambda: [
                masks_.prune_and_repair(m, x, tau, hysteresis)
                for m, x in zip(masks, scored, strict=True)
            ],
        )
        return new, tau

    def cycle(k: Array, masks: Leaves, values: Leaves, change: Leaves, log: PruningLog):
        """New masks by the scores of all weights, dormant ones included."""
        scored = list(map(score, values, change))
        nans = thresholds.count_nan(scored)
        if not recover:  # what is pruned scores less than anything kept
            scored = [jnp.where(m, x, -1) for m, x in zip(masks, scored, strict=True)]
        new, tau = select(masks, scored, schedule(k), k == cycles)
        if not recover:
            new = list(map(jnp.logical_and, masks, new))
        entry = PruningLog(
            sparsity=1 - masks_.count(new) / sum(m.size for m in masks),
            threshold=tau,
            pruned=masks_.count([m & ~n for m, n in zip(masks, new, strict=True)]),
            repaired=masks_.count([n & ~m for m, n in zip(masks, new, strict=True)]),
            nans=nans,
        )
        return new, jax.tree.map(lambda column, x: column.at[k - 1].set(x), log, entry)

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError(
                "active_stepwise_pruning needs params: "
                "call update(grads, state, params)"
            )
        masks, structure = jax.tree.flatten(state.masks)
        weights, change = (_pick(tree, state.masks) for tree in (params, updates))
        dormant = jax.tree.leaves(state.dormant) or [0] * len(masks)
        values = list(map(_next_value, masks, weights, dormant, change))
        step = state.step + 1
        new, log = _cond(
            _is_cycle(step, every, cycles),
            lambda: cycle(step // every, masks, values, change, state.log),
            lambda: (masks, state.log),
        )
        disturbed = state.disturbed + _cond(
            _is_cycle(state.step, every, cycles),
            lambda: _misplaced(masks, weights),
            lambda: jnp.zeros((), jnp.int32),
        )
        landed = list(map(_land, masks, new, weights, values, change))
        dormant = [
            jnp.where(n, 0, v).astype(v.dtype) for n, v in zip(new, values, strict=True)
        ]
        state = StepwiseState(
            step=step,
            masks=jax.tree.unflatten(structure, new),
            dormant=jax.tree.unflatten(structure, dormant)
            if recover
            else state.dormant,
            disturbed=disturbed,
            cycles=jnp.minimum(step // every, cycles),
            log=log,
        )
        if not isinstance(step, jax.core.Tracer):
            _complain(state)
        return _put(updates, jax.tree.unflatten(structure, landed)), state

    return optax.GradientTransformationExtraArgs(init, update)


def sparsity(opt_state: PyTree) -> float:
    """The share of the prunable weights that are pruned now.

    Args:
      opt_state: any optimizer state with `StepwiseState`s in it: a chain, a partition,
        masked, MultiSteps, …; several count together.

    Returns:
      A number in [0, 1).

    Raises:
      ValueError: there is no `StepwiseState`, or its pruning was disturbed.

    Example:
      >>> from jaxprune import schedules
      >>> tx = active_stepwise_pruning(schedules.linear(0.5, steps=2), every=1)
      >>> sparsity(tx.init({"kernel": jnp.ones((2, 2))}))
      0.0
    """
    masks = [state.masks for state in _states(opt_state)]
    size = sum(m.size for m in jax.tree.leaves(masks))
    return 1 - int(masks_.count(masks)) / size


def pruning_log(opt_state: PyTree) -> PruningLog:
    """What each pruning cycle so far did, as NumPy arrays.

    Args:
      opt_state: any optimizer state with one `StepwiseState` in it.

    Returns:
      The log, with as many entries as there have been cycles.

    Raises:
      ValueError: there is no `StepwiseState`, or several, or its pruning was disturbed.

    Example:
      >>> from jaxprune import schedules
      >>> tx = active_stepwise_pruning(schedules.linear(0.5, steps=2), every=1)
      >>> pruning_log(tx.init({"kernel": jnp.ones((2, 2))})).pruned
      array([], dtype=int32)
    """
    states = _states(opt_state)
    if len(states) > 1:
        raise ValueError(f"{len(states)} StepwiseStates: take the log of each alone")
    log = jax.tree.map(np.asarray, states[0].log)
    return jax.tree.map(lambda column: column[: int(states[0].cycles)], log)


def _states(opt_state: PyTree) -> list[StepwiseState]:
    found = jax.tree.leaves(
        opt_state, is_leaf=lambda node: isinstance(node, StepwiseState)
    )
    found = [node for node in found if isinstance(node, StepwiseState)]
    if not found:
        raise ValueError("there is no StepwiseState in this optimizer state")
    for state in found:
        _complain(state)
    return found


def _complain(state: StepwiseState):
    if disturbed := int(state.disturbed):
        raise ValueError(
            f"{disturbed} pruned weights are not zero in the params: "
            "active_stepwise_pruning must be the last link of the chain, and its "
            "updates must be applied as they are"
        )
    if nans := int(jnp.max(state.log.nans)):
        raise ValueError(f"{nans} scores were NaN in a pruning cycle")


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
    elif scope not in ("global", "leaf"):
        raise ValueError(f'scope must be "global", "leaf" or (n, m), got {scope!r}')
    if not 0 <= floor < 1 or floor + schedule.final > 1:
        raise ValueError(
            f"floor must be in [0, 1 − final sparsity {schedule.final}], got {floor}"
        )


def _is_cycle(step: Array, every: int, cycles: int) -> Array:
    return (step > 0) & (step % every == 0) & (step <= every * cycles)


def _cond(predicate: Array, yes: Callable, no: Callable):
    """`lax.cond`, which would compile at each call outside jit."""
    if isinstance(predicate, jax.core.Tracer):
        return lax.cond(predicate, yes, no)
    return yes() if predicate else no()


def _misplaced(masks: Leaves, weights: Leaves) -> Array:
    """How many pruned weights are not zero."""
    return masks_.count([~m & (w != 0) for m, w in zip(masks, weights, strict=True)])


def _protected(scored: Leaves, floor: float) -> Leaves:
    """Scores in which the largest of each leaf are out of any threshold's reach."""
    if not floor:
        return scored
    prune = [x.size - math.ceil(floor * x.size) for x in scored]
    safe = [masks_.all_but_smallest(x, k) for x, k in zip(scored, prune, strict=True)]
    return [jnp.where(keep, jnp.inf, x) for keep, x in zip(safe, scored, strict=True)]


def _next_value(mask: Array, weight: Array, dormant: Array | int, change: Array):
    """What a weight will be, kept or dormant, as `optax.apply_updates` makes it."""
    return (jnp.where(mask, weight, dormant) + change).astype(weight.dtype)


def _land(mask: Array, new: Array, weight: Array, value: Array, change: Array):
    """The update that ends on zero, w + (−w), where pruned; on 0 + value, repaired."""
    return jnp.where(new, jnp.where(mask, change, value), -weight)


def _prunable(params: Params, predicate: Predicate) -> Params:
    """The params with `optax.MaskedNode` in place of all that is not pruned."""
    if type(params).__name__ == "_ParamsPlaceholder":  # of optax.tree.map_params
        return params
    chosen = paths.select(params, predicate)
    return jax.tree.map(lambda p, hit: p if hit else optax.MaskedNode(), params, chosen)


def _absent(node: PyTree) -> bool:
    return isinstance(node, optax.MaskedNode)


def _pick(tree: PyTree, masks: Masks) -> Leaves:
    """The leaves that have a mask."""
    picked = jax.tree.map(lambda x, m: m if _absent(m) else x, tree, masks)
    return jax.tree.leaves(picked)


def _put(tree: PyTree, some: PyTree) -> PyTree:
    """The tree with some leaves replaced."""
    return jax.tree.map(lambda x, new: x if _absent(new) else new, tree, some)
