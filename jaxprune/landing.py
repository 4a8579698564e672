"""Updates that land on masks, and masks that change in cycles: what pruning shares."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxprune import masks as masks_
from jaxprune import paths
from jaxprune.folds import total
from jaxprune.pruning_log import PruningLog, StepwiseState, check
from jaxprune.types import Array, Masks, Params, Predicate, PyTree

Leaves: TypeAlias = list[Array]


class Weights(NamedTuple):
    """The prunable weights when a cycle comes: lists with one entry for each leaf.

    Attributes:
      paths: such as `"Dense_0/kernel"`.
      masks: what is kept so far.
      values: what a weight will be after the update, kept or dormant.
      updates: what the chain so far adds to them.
    """

    paths: list[str]
    masks: Leaves
    values: Leaves
    updates: Leaves


class Choice(NamedTuple):
    """What a cycle decides.

    Attributes:
      masks: the new masks.
      threshold: for the log; a scalar, or one number for each leaf.
      nans: how many scores were NaN.
    """

    masks: Leaves
    threshold: Array
    nans: Array


Rule: TypeAlias = Callable[[Array, Weights], Choice]
"""What cycle k = 1, 2, … does."""


def in_cycles(
    name: str,
    rule: Rule,
    every: int,
    cycles: int,
    *,
    prunable: Predicate,
    start: Callable[[list[str], Leaves], Leaves],
    dormant: bool,
    columns: bool,
) -> optax.GradientTransformationExtraArgs:
    """A link that keeps pruned weights at exactly zero, with new masks now and then.

    An update u of a weight w becomes −w where the mask is off, and w + (−w) is exactly
    0; it stays u where the mask was on and stays on; where the mask comes on again it
    is the dormant value, or 0 without one.

    Args:
      name: of the link, for messages.
      rule: chooses new masks at every cycle.
      every: updates from one cycle to the next.
      cycles: how many cycles there are; after the last the masks stay as they are.
      prunable: chooses the leaves to prune, by path.
      start: the first masks, from the paths of the leaves and their values.
      dormant: whether pruned weights live on in the state, moved by updates no
        further than is usual among those kept.
      columns: whether the threshold is one for each leaf.

    Returns:
      A transformation with the state `StepwiseState`.
    """

    def init(params: Params) -> StepwiseState:
        weights = _prunable(params, prunable)
        masks = _started(start, weights)
        absent = jax.tree.map(lambda _: optax.MaskedNode(), weights)
        width = (len(jax.tree.leaves(weights)),) if columns else ()
        return StepwiseState(
            step=jnp.zeros((), jnp.int32),
            masks=masks,
            dormant=jax.tree.map(jnp.zeros_like, weights) if dormant else absent,
            disturbed=jnp.zeros((), jnp.int32),
            cycles=jnp.zeros((), jnp.int32),
            log=_blank(cycles, width),
        )

    def cycle(k: Array, now: Weights, log: PruningLog) -> tuple[Leaves, PruningLog]:
        choice = rule(k, now)
        return choice.masks, _written(log, k, now.masks, choice)

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError(f"{name} needs params: call update(grads, state, params)")
        weights = _pick(params, state.masks)
        now = _weights(weights, _pick(updates, state.masks), state)
        step = state.step + 1
        masks, log = cond(
            _is_cycle(step, every, cycles),
            lambda: cycle(step // every, now, state.log),
            lambda: (now.masks, state.log),
        )
        disturbed = cond(
            _is_cycle(state.step, every, cycles),
            lambda: _misplaced(now.masks, weights),
            lambda: jnp.zeros((), jnp.int32),
        )
        landed = list(map(_land, now.masks, masks, weights, now.values, now.updates))
        shaped = partial(jax.tree.unflatten, jax.tree.structure(state.masks))
        asleep = list(map(_sleep, masks, now.values))
        state = StepwiseState(
            step=step,
            masks=shaped(masks),
            dormant=shaped(asleep) if dormant else state.dormant,
            disturbed=state.disturbed + disturbed,
            cycles=jnp.minimum(step // every, cycles),
            log=log,
        )
        if not isinstance(step, jax.core.Tracer):
            check(state)
        return _put(updates, shaped(landed)), state

    return optax.GradientTransformationExtraArgs(init, update)


def _started(start: Callable, weights: Params) -> Masks:
    """The first masks, in the structure of the weights."""
    named, structure = jax.tree.flatten_with_path(weights)
    if not named:  # a placeholder of optax.tree.map_params
        return weights
    names, leaves = zip(*((paths.name(path), w) for path, w in named), strict=True)
    return jax.tree.unflatten(structure, start(list(names), list(leaves)))


def _weights(weights: Leaves, updates: Leaves, state: StepwiseState) -> Weights:
    named = jax.tree.leaves_with_path(state.masks)
    masks = [mask for _, mask in named]
    dormant = jax.tree.leaves(state.dormant)
    values = (
        map(_next_value, masks, weights, dormant, updates)
        if dormant
        else map(_next_kept, masks, weights, updates)
    )
    return Weights([paths.name(p) for p, _ in named], masks, list(values), updates)


def _next_value(mask: Array, weight: Array, dormant: Array, update: Array) -> Array:
    """What a weight will be, kept or dormant, as `optax.apply_updates` makes it."""
    usual = _usual(mask, update)
    update = jnp.where(mask, update, jnp.clip(update, -usual, usual))
    return (jnp.where(mask, weight, dormant) + update).astype(weight.dtype)


def _usual(mask: Array, update: Array) -> Array:
    """How far kept weights move: the geometric mean, as the nearest power of two.

    A few that move very far do not change it, nor does the order of summation.
    """
    moves = jnp.abs(update.astype(jnp.result_type(update, jnp.float32)))
    moved = mask & (moves > 0)
    logs = jnp.sum(jnp.where(moved, jnp.log2(moves), 0))
    count = total(moved)
    power = jnp.round(logs / jnp.maximum(count, 1)).astype(jnp.int32)
    usual = jnp.ldexp(jnp.ones_like(logs), power)
    return jnp.where(count > 0, usual, 0).astype(update.dtype)


def _next_kept(mask: Array, weight: Array, update: Array) -> Array:
    """What a weight will be where pruned ones do not live on."""
    return jnp.where(mask, weight + update, 0).astype(weight.dtype)


def _land(mask: Array, new: Array, weight: Array, value: Array, update: Array) -> Array:
    """The update that ends on zero, w + (−w), where pruned; on 0 + value, if back."""
    return jnp.where(new, jnp.where(mask, update, value), -weight)


def _sleep(new: Array, value: Array) -> Array:
    """The dormant values: of what is pruned, and 0 where a weight is kept."""
    return jnp.where(new, 0, value).astype(value.dtype)


def _blank(cycles: int, width: tuple[int, ...]) -> PruningLog:
    """A log with nothing in it yet; thresholds of that shape."""
    return PruningLog(
        sparsity=jnp.zeros(cycles),
        threshold=jnp.zeros((cycles, *width)),
        pruned=jnp.zeros(cycles, jnp.int32),
        repaired=jnp.zeros(cycles, jnp.int32),
        nans=jnp.zeros(cycles, jnp.int32),
    )


def _written(log: PruningLog, k: Array, masks: Leaves, choice: Choice) -> PruningLog:
    """The log with what cycle k did."""
    pairs = list(zip(masks, choice.masks, strict=True))
    entry = PruningLog(
        sparsity=1 - masks_.count(choice.masks) / sum(m.size for m in masks),
        threshold=choice.threshold,
        pruned=masks_.count([old & ~new for old, new in pairs]),
        repaired=masks_.count([new & ~old for old, new in pairs]),
        nans=choice.nans,
    )
    return jax.tree.map(lambda column, x: column.at[k - 1].set(x), log, entry)


def _misplaced(masks: Leaves, weights: Leaves) -> Array:
    """How many pruned weights are not zero."""
    return masks_.count([~m & (w != 0) for m, w in zip(masks, weights, strict=True)])


def _is_cycle(step: Array, every: int, cycles: int) -> Array:
    return (step > 0) & (step % every == 0) & (step <= every * cycles)


def cond(predicate: Array | bool, yes: Callable, no: Callable):
    """`lax.cond`, which would compile at each call outside jit.

    Example:
      >>> cond(True, lambda: 1, lambda: 2)
      1
    """
    if isinstance(predicate, jax.core.Tracer):
        return lax.cond(predicate, yes, no)
    return yes() if predicate else no()


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
