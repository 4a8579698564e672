"""One dispatch to the device: some updates in a row, augmentation included."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.losses import LossFn, logits_of
from experiments.networks import Network, Variables, statistics

Params = Any
EvalParams = Callable[[optax.OptState, Params], Params]
"""The parameters to evaluate and ship, `(opt_state, params) -> params`."""
Observe = Callable[[optax.OptState, Params], dict[str, Any]]
"""Scalars of a method to log, `(opt_state, params) -> {name: scalar}`."""


Inputs = tuple[jax.Array, jax.Array]
"""Normalised images, float32 (N, H, W, C), and labels, int32 (N,)."""
Read = Callable[[Any, Any, jax.Array, int], Inputs]
"""Makes a batch of what a feed has fetched, `(fetched, index, key, px) -> inputs`."""


class Examples(NamedTuple):
    """Images uint8 (N, H, W, C) and labels int32 (N,), on the device."""

    images: jax.Array
    labels: jax.Array


class State(NamedTuple):
    """All that a phase carries from step to step, and all that a checkpoint holds.

    step: updates made in this phase.
    params, statistics: the variables that are trained.
    opt_state: of the optimizer, with the masks and whatever else it keeps.
    average: mean of the parameters to evaluate, over the last part; None when off.
    loss_sum, correct: over the steps of the epoch so far.
    """

    step: jax.Array
    params: Params
    statistics: Variables
    opt_state: optax.OptState
    average: Params | None
    loss_sum: jax.Array
    correct: jax.Array


class Step(NamedTuple):
    """What an update is made of.

    read: makes the inputs, inside jit.
    average_from: the step the mean of the parameters starts at.
    fused: several updates in one dispatch. Right on an accelerator; on a CPU, XLA runs
      the body of a loop a fifth slower.
    """

    network: Network
    tx: optax.GradientTransformation
    loss: LossFn
    read: Read
    batch_size: int
    average_from: int
    eval_params: EvalParams
    observe: Observe
    fused: bool


def initial(
    variables: Variables,
    opt_state: optax.OptState,
    *,
    average: Params | None,
) -> State:
    return State(
        step=jnp.int32(0),
        params=variables["params"],
        statistics=statistics(variables),
        opt_state=opt_state,
        average=average,
        loss_sum=jnp.float32(0),
        correct=jnp.int32(0),
    )


def update(
    step: Step, state: State, inputs: jax.Array, labels: jax.Array
) -> tuple[State, jax.Array]:
    """One update; also whether loss, gradient and new parameters are finite."""

    def objective(params):
        variables = {"params": params, **state.statistics}
        outputs, new_statistics = step.network.train(variables, inputs)
        logits = logits_of(outputs)
        correct = jnp.sum(jnp.argmax(logits, -1) == labels)
        return step.loss(outputs, labels), (new_statistics, correct)

    (loss, (new_statistics, correct)), grads = jax.value_and_grad(
        objective, has_aux=True
    )(state.params)
    updates, opt_state = step.tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        weight = 1 / (jnp.maximum(state.step - step.average_from, 0) + 1)
        average = optax.incremental_update(
            step.eval_params(opt_state, params), average, weight
        )
    new = State(
        step=state.step + 1,
        params=params,
        statistics=new_statistics,
        opt_state=opt_state,
        average=average,
        loss_sum=state.loss_sum + loss,
        correct=state.correct + correct.astype(jnp.int32),
    )
    return new, _finite((loss, grads, params))


def make_advance(step: Step):
    """`advance(state, fetched, key, first, count, px) -> (state, report)`.

    Makes `count` updates (1 unless fused) on the batches `first`, `first` + 1, … of the
    epoch, in one dispatch. The report's arrays are small: loss and accuracy are means
    over the epoch so far, `bad_step` is the first step with NaN or infinity in it (−1:
    none).
    Compiled once per image size; `state` is donated.
    """

    @partial(jax.jit, static_argnames="px", donate_argnames="state")
    def advance(state, fetched, key, first, count, *, px):
        sums = (state.loss_sum, state.correct)
        loss_sum, correct = jax.tree.map(
            lambda x: jnp.where(first == 0, jnp.zeros_like(x), x), sums
        )
        state = state._replace(loss_sum=loss_sum, correct=correct)

        def body(i, carry):
            state, bad_step = carry
            step_key = jax.random.fold_in(key, state.step)
            inputs, labels = step.read(fetched, first + i, step_key, px)
            state, finite = update(step, state, inputs, labels)
            newly_bad = (bad_step < 0) & ~finite
            return state, jnp.where(newly_bad, state.step, bad_step)

        carry = (state, jnp.int32(-1))
        if step.fused:
            state, bad_step = jax.lax.fori_loop(0, count, body, carry)
        else:
            state, bad_step = body(0, carry)
        done = (first + count).astype(jnp.float32)
        report = {
            "step": state.step,
            "bad_step": bad_step,
            "loss": state.loss_sum / done,
            "accuracy": state.correct / (done * step.batch_size),
            **step.observe(state.opt_state, state.params),
        }
        return state, report

    return advance


def _finite(tree: Any) -> jax.Array:
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]))
