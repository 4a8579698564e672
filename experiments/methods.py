"""The methods as `experiments.train.fit` takes them: optimizer, evaluation, log."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp
from experiments.config import Config
from experiments.optimizers import l1_subgradient, one_cycle, sgd
from jaxprune.types import Array, Params, Predicate

_FROZEN_FROM = 0.6
"""Share of the training after which the masks of stepwise pruning stay as they are."""
_HOLD = 5
"""Cycles of pruning and repairing at the final sparsity."""
_MIN_FACTOR_RATE = 0.02
"""The step size of FISTA is at least this, so that zeros keep appearing."""


class Method(NamedTuple):
    """What makes a method: arguments of `fit`."""

    tx: optax.GradientTransformation
    eval_params: Callable[[Any, Params], Params] = lambda opt_state, params: params
    observe: Callable[[Any, Params], dict[str, Array]] = lambda opt_state, params: {}


def plain(config: Config, peak: float, steps: int) -> Method:
    """SGD and nothing else."""
    rate = one_cycle(peak, steps)
    return Method(sgd(rate, weight_decay=config.weight_decay))


def stepwise(
    config: Config, peak: float, steps: int, sparsity: float, prunable: Predicate
) -> Method:
    """Active stepwise pruning behind SGD, to `sparsity` of the prunable weights."""
    if config.average_last > 1 - _FROZEN_FROM:
        raise ValueError(
            f"average_last must be at most {1 - _FROZEN_FROM:g}, since masks change "
            f"until then, got {config.average_last}"
        )
    cycles = config.pruning_steps + _HOLD
    every = int(_FROZEN_FROM * steps) // cycles
    if every < 1:
        raise ValueError(
            f"{config.pruning_steps} pruning_steps do not fit into {steps} updates: "
            "train longer, or take fewer"
        )
    if config.regrow == "none":
        link = _pruning(config, sparsity, prunable, every, cycles)
    else:
        link = _regrowing(config, sparsity, prunable, every, cycles)

    def observe(opt_state, params):
        del params
        state = opt_state[-1]
        last = jnp.clip(state.step // every, 0, cycles) - 1
        entry = jax.tree.map(lambda x: jnp.where(last < 0, 0, x[last]), state.log)
        shown = ("sparsity", "pruned", "repaired")
        if entry.threshold.ndim == 0:
            shown = ("sparsity", "threshold", "pruned", "repaired")
        return {name: getattr(entry, name) for name in shown}

    return Method(optax.chain(plain(config, peak, steps).tx, link), observe=observe)


def _pruning(
    config: Config, sparsity: float, prunable: Predicate, every: int, cycles: int
) -> optax.GradientTransformationExtraArgs:
    """Pruning by steps; a schedule of fewer steps holds for longer."""
    make = {
        "logarithmic": lambda s, k: jp.schedules.logarithmic(s, config.curvature, k),
        "cubic": jp.schedules.cubic,
        "linear": jp.schedules.linear,
        "one_shot": lambda s, k: jp.schedules.one_shot(s),
    }
    schedule = make[config.schedule](sparsity, config.pruning_steps)
    return jp.active_stepwise_pruning(
        schedule,
        every,
        hold=cycles - schedule.steps,
        prunable=prunable,
        hysteresis=config.hysteresis,
        recover=config.recover,
        score=_score(config),
        scope=config.scope,
        floor=config.floor,
    )


def _regrowing(
    config: Config, sparsity: float, prunable: Predicate, every: int, cycles: int
) -> optax.GradientTransformationExtraArgs:
    """As many cycles, at constant sparsity from the first update on."""
    return jp.drop_and_regrow(
        sparsity,
        every,
        cycles,
        prunable=prunable,
        grow=config.regrow,
        scope=config.scope,
        initial=jp.scores.magnitude if config.start == "dense" else None,
        seed=config.seed,
    )


def _score(config: Config) -> jp.scores.Score:
    if config.score == "random":
        return jp.scores.random(config.seed)
    return getattr(jp.scores, config.score)


def channels(config: Config, peak: float, steps: int, *, sparsify: bool) -> Method:
    """L1 on the batch-norm factors, by FISTA or a baseline; SGD on the weights.

    With `sparsify` the factors pay L1. Without, they pay nothing (FISTA is then
    Nesterov's gradient method): the optimizer's state keeps its structure, so that
    fine-tuning can go on with it.
    """
    rate = one_cycle(peak, steps)
    factors = _factors(config, rate, sparsify=sparsify)
    tx = optax.partition(
        {"factors": factors, "weights": sgd(rate, weight_decay=config.weight_decay)},
        jp.paths.label(jp.paths.batch_norm_factors, "factors", otherwise="weights"),
    )
    if config.solver == "subgradient":
        return Method(tx)
    return Method(tx, jp.primal_params, _live_scales)


def _factors(
    config: Config, rate: optax.Schedule, *, sparsify: bool
) -> optax.GradientTransformation:
    """Minimises the loss plus, with `sparsify`, λ_γ‖γ‖₁ + λ_β‖β‖₁."""
    l1 = {"scale": config.l1_scale, "bias": config.l1_shift}

    def penalty(path: str, leaf: Array) -> float:
        del leaf
        return l1[path.rsplit("/", 1)[-1]] if sparsify else 0.0

    if config.solver == "subgradient":
        return optax.chain(l1_subgradient(penalty), sgd(rate, weight_decay=0.0))
    return jp.fista(
        rate,
        l1=penalty,
        max_momentum=0.0 if config.solver == "ista" else 0.9,
        restart=False,
        min_learning_rate=_MIN_FACTOR_RATE if sparsify else 0.0,
    )


def _live_scales(opt_state: Any, params: Params) -> dict[str, Array]:
    """The share of batch-norm scales γ that are not zero."""
    scales = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(jp.primal_params(opt_state, params))
        if jp.paths.batch_norm_factors(jp.paths.name(path), leaf)
        and jp.paths.name(path).endswith("scale")
    ]
    live = sum(jnp.sum(scale != 0) for scale in scales)
    return {"live_scales": live / sum(scale.size for scale in scales)}
