"""The branches of a run: from the dense network to networks that can be delivered."""

import bisect
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments import methods
from experiments.earlier import adopted, earlier
from experiments.experiment import Experiment
from experiments.models.heads import drop_heads, outside_heads
from experiments.networks import Variables
from experiments.removal import Removal, describe, remove
from experiments.train import Fitted
from jaxprune.types import Predicate

_WIDTHS = 1000
"""In how many steps the width of the small network is looked for."""


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


def check(experiment: Experiment) -> None:
    """Builds the methods once, so that bad values are refused before any training.

    Raises:
      ValueError: a field is out of range, or does not suit the network or the data.
    """
    config, steps = experiment.config, experiment.steps(experiment.branch_epochs)
    params = drop_heads(experiment.shapes)["params"]
    if "stepwise" in config.methods:
        prunable = outside_heads(experiment.architecture.prunable)
        sparsity = sparsity_for(config.ratio, params, prunable)
        methods.stepwise(config, experiment.branch_peak, steps, sparsity, prunable)
    if "channels" in config.methods:
        _check_batch_norm(experiment, params)
        methods.channels(config, experiment.branch_peak, steps, sparsify=True)
    if "small" in config.methods:
        narrow(experiment)
    if config.start_from is not None:
        earlier(experiment)


def _check_batch_norm(experiment: Experiment, params: Any) -> None:
    leaves = jax.tree.leaves_with_path(params)
    if not any(jp.paths.batch_norm_factors(jp.paths.name(p), x) for p, x in leaves):
        raise ValueError(
            f"{experiment.architecture.name} has no batch norm, by whose factors "
            "channels are pruned: leave channels out of methods, or take a network "
            "with batch norm"
        )


def start(experiment: Experiment) -> Variables:
    """Where the branches start: a dense network, trained here or in another run.

    From scratch it is new weights.
    """
    config = experiment.config
    if config.start == "scratch":
        return experiment.initial()
    if config.start_from is None:
        return train_dense(experiment)
    return adopted(train_dense(earlier(experiment)), experiment.initial())


def train_dense(experiment: Experiment) -> Variables:
    """The dense network that others are pruned from."""
    config = experiment.config
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


def small(experiment: Experiment) -> Delivered:
    """The baseline: a dense network that is small from the start, for all epochs."""
    smaller, config = narrow(experiment), experiment.config
    epochs = config.epochs + config.prune_epochs
    method = methods.plain(config, config.learning_rate, experiment.steps(epochs))
    fitted = smaller.fit(
        "small", smaller.network, smaller.initial(), method, smaller.recipe(epochs)
    )
    return _delivered(smaller, fitted, width=smaller.config.width)


def narrow(experiment: Experiment) -> Experiment:
    """The experiment with the widest network within `params_ratio`.

    Raises:
      ValueError: one channel in each layer is still too much.
    """
    config = experiment.config

    def of(width: float) -> Experiment:
        narrow = dataclasses.replace(config, width=width)
        return dataclasses.replace(experiment, config=narrow)

    def size(width: float) -> int:
        variables = drop_heads(of(width).shapes)
        return jp.parameters(variables["params"])

    most = size(config.width) / config.params_ratio
    widths = np.linspace(0, config.width, _WIDTHS + 1)
    fitting = bisect.bisect_right(widths, most, key=size)
    if not fitting:
        raise ValueError(
            f"params_ratio {config.params_ratio} leaves {most:,.0f} parameters, but "
            f"one channel in each layer has {size(0.0):,}: lower params_ratio"
        )
    return of(float(widths[fitting - 1]))


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
    counters = (c for c in ("count", "step") if optax.tree.get_all_with_path(small, c))
    return optax.tree.set(small, **dict.fromkeys(counters, jnp.int32(0)))


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


def _delivered(experiment: Experiment, fitted: Fitted, **details: Any) -> Delivered:
    return Delivered(
        experiment.headless.predict,
        drop_heads(fitted.variables),
        fitted.result["test_accuracy"],
        None,
        details,
    )
