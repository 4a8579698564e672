"""The branches of a run: from the dense network to networks that can be delivered."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments import methods
from experiments.experiment import Experiment
from experiments.models.heads import drop_heads, outside_heads
from experiments.networks import Network, Variables
from experiments.train import Fitted
from jaxprune.types import Predicate


class Delivered(NamedTuple):
    """A network to deliver.

    Attributes:
      predict: `(variables, images) -> logits`.
      variables: without auxiliary classifiers.
      accuracy: on the test images, in [0, 1].
      plan: which channels went; None if none did.
      details: what else is worth telling, by name.
    """

    predict: Callable[[Variables, Any], Any]
    variables: Variables
    accuracy: float
    plan: jp.Plan | None
    details: dict[str, Any]


class Removal(NamedTuple):
    """Channels taken out.

    Attributes:
      plan: which.
      network: the compact network.
      variables: its variables.
      details: accuracy before, after forcing factors to zero; the certificate.
    """

    plan: jp.Plan
    network: Network
    variables: Variables
    details: dict[str, Any]


def check(experiment: Experiment) -> None:
    """Builds the methods once, so that bad values are refused before any training.

    Raises:
      ValueError: a field is out of range, or does not suit the network or the data.
    """
    config, steps = experiment.config, experiment.steps(experiment.branch_epochs)
    if "stepwise" in config.methods:
        params = drop_heads(jax.eval_shape(experiment.initial))["params"]
        prunable = outside_heads(experiment.architecture.prunable)
        sparsity = sparsity_for(config.ratio, params, prunable)
        methods.stepwise(config, experiment.branch_peak, steps, sparsity, prunable)
    if "channels" in config.methods:
        methods.channels(config, experiment.branch_peak, steps, sparsify=True)


def train_dense(experiment: Experiment) -> Variables:
    """Where all branches start: the dense network, or, from scratch, new weights."""
    config = experiment.config
    if config.start == "scratch":
        return experiment.initial()
    method = methods.plain(
        config, config.learning_rate, experiment.steps(config.epochs)
    )
    fitted = experiment.fit(
        "dense",
        experiment.network,
        experiment.initial(),
        method,
        experiment.recipe(config.epochs),
    )
    return fitted.variables


def train_longer(experiment: Experiment, start: Variables) -> Delivered:
    """The baseline: the dense network trains on while the others are pruned."""
    epochs = experiment.branch_epochs
    method = methods.plain(
        experiment.config, experiment.branch_peak, experiment.steps(epochs)
    )
    fitted = experiment.fit(
        "dense_longer", experiment.network, start, method, experiment.recipe(epochs)
    )
    return _delivered(experiment, fitted)


def stepwise(experiment: Experiment, start: Variables) -> Delivered:
    """Active stepwise pruning to exactly 1/`ratio` of the parameters."""
    config, epochs = experiment.config, experiment.branch_epochs
    prunable = outside_heads(experiment.architecture.prunable)
    sparsity = sparsity_for(config.ratio, drop_heads(start)["params"], prunable)
    method = methods.stepwise(
        config, experiment.branch_peak, experiment.steps(epochs), sparsity, prunable
    )
    fitted = experiment.fit(
        "stepwise", experiment.network, start, method, experiment.recipe(epochs)
    )
    log = jp.pruning_log(fitted.opt_state)._asdict()
    return _delivered(experiment, fitted, pruning=jax.tree.map(np.ndarray.tolist, log))


def sparsity_for(ratio: float, params: Any, prunable: Predicate) -> float:
    """The sparsity of the prunable weights that leaves 1/`ratio` of all parameters.

    Raises:
      ValueError: the other parameters alone are more than that.
    """
    chosen = jp.paths.select(params, prunable)
    total = jp.parameters(params)
    size = sum(
        leaf.size
        for leaf, hit in zip(
            jax.tree.leaves(params), jax.tree.leaves(chosen), strict=True
        )
        if hit
    )
    kept = round(total / ratio) - (total - size)
    if kept < 1:
        raise ValueError(
            f"ratio {ratio} leaves {round(total / ratio):,} parameters, but "
            f"{total - size:,} are not prunable: lower ratio"
        )
    return (size - kept) / size


def channels(experiment: Experiment, start: Variables) -> Delivered:
    """End-to-end channel pruning: sparsify, remove, fine-tune."""
    sparse = sparsify(experiment, start)
    removal = remove(experiment, drop_heads(sparse.variables))
    experiment.progress.say(describe(removal))
    fitted = finetune(experiment, removal, shrunk_state(removal, sparse))
    return Delivered(
        removal.network.predict,
        fitted.variables,
        fitted.result["test_accuracy"],
        removal.plan,
        removal.details,
    )


def sparsify(experiment: Experiment, start: Variables) -> Fitted:
    """FISTA on the batch-norm factors, auxiliary classifiers included."""
    epochs = experiment.branch_epochs - experiment.finetune_epochs
    method = methods.channels(
        experiment.config,
        experiment.branch_peak,
        experiment.steps(epochs),
        sparsify=True,
    )
    recipe = experiment.recipe(epochs, average_last=0.0)
    return experiment.fit(
        "channels_sparsify", experiment.network, start, method, recipe
    )


def shrunk_state(removal: Removal, sparse: Fitted) -> Any:
    """The optimizer's state for the compact network; its schedules start anew."""
    small = removal.plan.apply(drop_heads(sparse.opt_state))
    return optax.tree.set(small, count=jnp.int32(0), step=jnp.int32(0))


def finetune(
    experiment: Experiment,
    removal: Removal,
    opt_state: Any,
    *,
    name: str = "channels_finetune",
    **recipe: Any,
) -> Fitted:
    """Trains the compact network; with `opt_state` None from a new one."""
    epochs = experiment.finetune_epochs
    method = methods.channels(
        experiment.config,
        experiment.branch_peak,
        experiment.steps(epochs),
        sparsify=False,
    )
    return experiment.fit(
        name,
        removal.network,
        removal.variables,
        method,
        experiment.recipe(epochs, **recipe),
        opt_state=opt_state,
    )


def remove(experiment: Experiment, variables: Variables) -> Removal:
    """Takes out the dead channels, and the weakest others until both budgets are met.

    Dead ones go as they are, constants folded into biases. The factors of the others
    are forced to zero, which changes the network: the accuracy before and after is
    reported. That the compact network equals the forced one is certified.
    """
    config, network = experiment.config, experiment.headless
    coupling = jp.trace_coupling(network.predict, variables, experiment.example)
    dead = jp.dead_channels(coupling, variables)
    plan = choose(coupling, variables, dead, config.params_ratio, config.macs_ratio)
    alive = jp.Plan.from_keep(coupling, plan.to_keep(coupling) | dead)
    forced = alive.mask(variables)
    judged = jp.judge(coupling, forced)
    fold = judged.fold(plan)
    small = plan.apply(forced, fold=fold)
    compact = Network(
        jp.shrink(network.train, plan), jp.shrink(network.predict, plan, fold=fold)
    )
    certificate = jp.certify(
        network.predict,
        forced,
        compact.predict,
        small,
        experiment.test_batches,
        reasoning=judged.verdict(plan),
    )
    certificate.raise_if_different()
    details = {
        "groups": coupling.size,
        "dead": int(dead[1:].sum()),
        "removed": int((~plan.to_keep(coupling)).sum()),
        "accuracy_before": experiment.accuracy(network, variables),
        "accuracy_forced": experiment.accuracy(compact, small),
        "certificate": certificate,
    }
    return Removal(plan, compact, small, details)


def choose(
    coupling: jp.Coupling,
    variables: Variables,
    dead: np.ndarray,
    params_ratio: float,
    macs_ratio: float,
) -> jp.Plan:
    """The plan within both budgets that keeps most of Σ|γ|.

    Channels go in the order of |γ| per cost. What a channel costs is so much in
    parameters and so much in multiply-adds; the weighing at which both budgets are
    used up is searched for.
    """
    counted = jp.paths.matching("^params/")
    everything = np.ones(coupling.size + 1, bool)
    scores = jp.importance.group_scores(
        coupling, variables, jp.importance.batch_norm_scale, combine="sum"
    )

    def plan(params: float) -> jp.Plan:
        order = jp.importance.per_cost(
            coupling, scores, params=params, macs=1 - params, counted=counted
        )
        return jp.make_plan(
            coupling,
            variables,
            dead=dead,
            score=order,
            params=coupling.params(everything, counted) / params_ratio,
            counted=counted,
            macs=coupling.macs(everything) / macs_ratio,
        )

    def kept(plan: jp.Plan) -> float:
        return scores[1:][plan.to_keep(coupling)[1:]].sum()

    return max(map(plan, np.linspace(0, 1, 11)), key=kept)


def describe(removal: Removal) -> str:
    """One line on what was removed, and what it did."""
    d = removal.details
    return (
        f"removed {d['removed']} of {d['groups']} channel groups ({d['dead']} were "
        f"dead): accuracy {100 * d['accuracy_before']:.2f} % → "
        f"{100 * d['accuracy_forced']:.2f} %, before fine-tuning; {d['certificate']}"
    )


def _delivered(experiment: Experiment, fitted: Fitted, **details: Any) -> Delivered:
    return Delivered(
        experiment.headless.predict,
        drop_heads(fitted.variables),
        fitted.result["test_accuracy"],
        None,
        details,
    )
