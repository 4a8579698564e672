"""What pruning has done so far, read from any optimizer state that holds it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import masks as masks_
from jaxprune.types import Array, Masks, Params, PyTree


class PruningLog(NamedTuple):
    """What each pruning cycle did; arrays with one entry for each cycle.

    Attributes:
      sparsity: share of the prunable weights that are pruned after the cycle.
      threshold: the score that separated them; one column for each leaf where each has
        its own, zero for n of m and where weights are dropped and regrown.
      pruned: how many weights were pruned.
      repaired: how many came back, or were grown.
      nans: how many scores were NaN.
    """

    sparsity: Array
    threshold: Array
    pruned: Array
    repaired: Array
    nans: Array


class StepwiseState(NamedTuple):
    """State of `active_stepwise_pruning` and `drop_and_regrow`.

    Attributes:
      step: how many updates there have been.
      masks: bool, shaped like the prunable params; True where kept. `optax.MaskedNode`
        in place of the other leaves, here and in `dormant`.
      dormant: the values of the pruned weights, 0 where a weight is kept;
        `optax.MaskedNode` where pruned weights do not live on.
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
      >>> import jaxprune as jp
      >>> tx = jp.active_stepwise_pruning(jp.schedules.linear(0.5, steps=2), every=1)
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
      >>> import jaxprune as jp
      >>> tx = jp.active_stepwise_pruning(jp.schedules.linear(0.5, steps=2), every=1)
      >>> pruning_log(tx.init({"kernel": jnp.ones((2, 2))})).pruned
      array([], dtype=int32)
    """
    states = _states(opt_state)
    if len(states) > 1:
        raise ValueError(f"{len(states)} StepwiseStates: take the log of each alone")
    log = jax.tree.map(np.asarray, states[0].log)
    return jax.tree.map(lambda column: column[: int(states[0].cycles)], log)


def check(state: StepwiseState):
    """Complains where pruning went wrong.

    Raises:
      ValueError: a pruned weight is no longer zero because a later link changed the
        update, or a score was NaN.

    Example:
      >>> import jaxprune as jp
      >>> tx = jp.active_stepwise_pruning(jp.schedules.linear(0.5, steps=2), every=1)
      >>> check(tx.init({"kernel": jnp.ones((2, 2))}))
    """
    if disturbed := int(state.disturbed):
        raise ValueError(
            f"{disturbed} pruned weights are not zero in the params: what prunes "
            "must be the last link of the chain, and its updates must be applied as "
            "they are"
        )
    if nans := int(jnp.max(state.log.nans)):
        raise ValueError(f"{nans} scores were NaN in a pruning cycle")


def _states(opt_state: PyTree) -> list[StepwiseState]:
    found = jax.tree.leaves(
        opt_state, is_leaf=lambda node: isinstance(node, StepwiseState)
    )
    found = [node for node in found if isinstance(node, StepwiseState)]
    if not found:
        raise ValueError("there is no StepwiseState in this optimizer state")
    for state in found:
        check(state)
    return found
