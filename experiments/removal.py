"""Taking channels out: which ones, what becomes of the network, the certificate."""

from typing import Any, NamedTuple

import numpy as np

import jaxprune as jp
from experiments.experiment import Experiment
from experiments.networks import Network, Variables


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
