"""Which groups go: the dead ones, then the least important, until budgets are met."""

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxprune.cost import latency as latency_of
from jaxprune.paths import name, select
from jaxprune.plan.importance import (
    Combine,
    LeafScore,
    Normalize,
    axes_of,
    group_scores,
    layers,
)
from jaxprune.plan.value import Plan
from jaxprune.shrink import shrink
from jaxprune.types import Predicate, PyTree

Cost = Callable[[np.ndarray], float]


def make_plan(
    coupling: Any,
    variables: PyTree,
    *,
    dead: np.ndarray | None = None,
    score: LeafScore | np.ndarray | None = None,
    combine: Combine = "norm",
    normalize: Normalize = None,
    params: float | None = None,
    counted: Predicate | None = None,
    macs: float | None = None,
    latency: float | None = None,
    measure: Callable[[Plan], float] | None = None,
    ratio: float | None = None,
    min_width: int = 1,
    multiple_of: int = 1,
    protect: Predicate | None = None,
) -> Plan:
    """The smallest removal that meets all budgets.

    Dead groups go first, then the others in ascending order of their score, until every
    budget that is given is met.

    Args:
      coupling: what `jaxprune.trace_coupling` found.
      variables: the variables it was traced with.
      dead: bools of shape (coupling.size + 1,), True for groups that go whatever the
        budgets: see `jaxprune.dead_channels`.
      score: how much groups matter, see `jaxprune.importance`.
      combine: see `jaxprune.importance.group_scores`.
      normalize: see `jaxprune.importance.group_scores`; "rank" for uniform layers.
      params: at most so many parameters are left (`coupling.params`); a number, not a
        ratio: `coupling.params(everything) / 26.9`.
      counted: which leaves `params` counts, such as those of `params/…` without the
        statistics; all by default.
      macs: at most so many multiply-adds (`coupling.macs`).
      latency: at most so many milliseconds by `measure`, which is called for about
        log₂(groups) candidates.
      measure: how long the network takes under a plan: see `measured_latency`.
      ratio: at least this share of the groups goes, in [0, 1).
      min_width: at least so many indices of every axis stay.
      multiple_of: what is left of a layer is rounded up to a multiple of this, where
        the layer is that wide.
      protect: leaves none of whose channels may go, `protect(path, leaf)`.

    Raises:
      ValueError: nothing was asked for, a budget cannot be met, or an argument is out
        of range.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> variables = {"in": jnp.ones((3, 8)), "out": jnp.ones((8, 2))}
      >>> def mlp(v, x):
      ...     return jnp.tanh(x @ v["in"]) @ v["out"]
      >>> coupling = jp.trace_coupling(mlp, variables, jnp.ones((1, 3)))
      >>> make_plan(
      ...     coupling, variables, score=jp.importance.magnitude, ratio=0.5
      ... ).widths
      {'in': (3, 4), 'out': (4, 2)}
    """
    budgets = {"ratio": ratio, "params": params, "macs": macs, "latency": latency}
    budgets = {kind: b for kind, b in budgets.items() if b is not None}
    _check(coupling, dead, score, budgets, measure, min_width, multiple_of)
    dead = np.zeros(coupling.size + 1, bool) if dead is None else np.asarray(dead)
    scores = np.zeros(coupling.size + 1)
    if score is not None:
        scores = group_scores(
            coupling, variables, score, combine=combine, normalize=normalize
        )
    order = np.lexsort((scores, ~dead))  # who goes first stands first
    rank = np.argsort(order)
    stays = _protected(coupling, variables, protect)
    stays |= _widest(coupling, rank, min_width)
    order = order[~stays[order]]
    rounded = _rounding(coupling, rank, multiple_of)

    def keep(count: int) -> np.ndarray:
        kept = np.ones(coupling.size + 1, bool)
        kept[order[:count]] = False
        return rounded(kept)

    count = int(np.sum(dead[order]))
    if budgets:
        limits = _limits(coupling, budgets, counted, measure)
        count = _least(count, len(order), keep, limits)
    return Plan.from_keep(coupling, keep(count))


def measured_latency(
    fn: Callable, variables: PyTree, *inputs: Any
) -> Callable[[Plan], float]:
    """How long `fn` takes under a plan, in milliseconds, for `make_plan(measure=…)`.

    Each call compiles the shrunk function and takes the median time of its runs
    (`jaxprune.cost.latency`).

    Args:
      fn: pure function of the dense variables and some inputs.
      variables: the dense variables.
      *inputs: the inputs to time it with.

    Example:
      >>> import jax.numpy as jnp, jaxprune as jp
      >>> mlp = lambda v, x: jnp.tanh(x @ v["in"]) @ v["out"]
      >>> v = {"in": jnp.ones((3, 2)), "out": jnp.ones((2, 1))}
      >>> measure = measured_latency(mlp, v, jnp.ones((1, 3)))
      >>> coupling = jp.trace_coupling(mlp, v, jnp.ones((1, 3)))
      >>> measure(jp.Plan.from_keep(coupling, np.array([True, False, True]))) > 0
      True
    """

    def measure(plan: Plan) -> float:
        small_fn = jax.jit(shrink(fn, plan))
        return latency_of(small_fn, plan.apply(variables), *inputs).median_ms

    return measure


def _check(
    coupling: Any,
    dead: np.ndarray | None,
    score: Any,
    budgets: dict[str, float],
    measure: Any,
    min_width: int,
    multiple_of: int,
) -> None:
    if dead is None and score is None:
        raise ValueError("what should go? Give dead= or score= with a budget")
    if dead is not None and np.shape(dead) != (coupling.size + 1,):
        raise ValueError(
            f"dead must have shape ({coupling.size + 1},), got {np.shape(dead)}"
        )
    if (score is None) != (not budgets):
        raise ValueError(
            "a budget needs score=, the order in which groups go"
            if budgets
            else "score= needs a budget: params=, macs=, latency= or ratio="
        )
    for kind, budget in budgets.items():
        if not (0 <= budget < 1 if kind == "ratio" else budget > 0):
            span = "in [0, 1)" if kind == "ratio" else "> 0"
            raise ValueError(f"{kind} must be {span}, got {budget}")
    if ("latency" in budgets) != (measure is not None):
        raise ValueError("latency= and measure= go together; see measured_latency")
    for option, least in (("min_width", min_width), ("multiple_of", multiple_of)):
        if least < 1:
            raise ValueError(f"{option} must be ≥ 1, got {least}")


def _protected(
    coupling: Any, variables: PyTree, protect: Predicate | None
) -> np.ndarray:
    """Groups that must stay: the frozen slots, and those on protected leaves."""
    stays = np.zeros(coupling.size + 1, bool)
    stays[0] = True
    if protect is not None:
        for path, hit in jax.tree.leaves_with_path(select(variables, protect)):
            if hit:
                stays[np.concatenate([[0], *coupling.leaves[name(path)].labels])] = True
    return stays


def _widest(coupling: Any, rank: np.ndarray, min_width: int) -> np.ndarray:
    """The best groups of every axis, as many as make up the minimum width."""
    stays = np.zeros(coupling.size + 1, bool)
    for labels in axes_of(coupling).values():
        best = labels[np.argsort(-np.where(labels == 0, len(rank), rank[labels]))]
        stays[best[:min_width]] = True
    return stays


def _rounding(
    coupling: Any, rank: np.ndarray, multiple_of: int
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that keeps more groups of a layer until its widths are multiples."""
    if multiple_of == 1:
        return lambda keep: keep
    axes = list(axes_of(coupling).values())
    steps = []
    for members in layers(coupling):
        repeats = [np.sum(labels == members[0]) for labels in axes]
        per_axis = (multiple_of // math.gcd(multiple_of, int(n)) for n in repeats if n)
        steps.append((members[np.argsort(-rank[members])], math.lcm(*per_axis)))

    def rounded(keep: np.ndarray) -> np.ndarray:
        keep = keep.copy()
        for best_first, step in steps:
            wanted = math.ceil(np.sum(keep[best_first]) / step) * step
            gone = best_first[~keep[best_first]]
            keep[gone[: max(0, wanted - (len(best_first) - len(gone)))]] = True
        return keep

    return rounded


def _limits(
    coupling: Any, budgets: dict[str, float], counted: Predicate | None, measure: Any
) -> list[tuple[str, float, Cost]]:
    """(kind, most it may cost, cost of a keep mask), the cheap ones first."""

    costs: dict[str, Cost] = {
        "ratio": lambda keep: float(np.mean(keep[1:])),
        "params": lambda keep: coupling.params(keep, counted),
        "macs": coupling.macs,
        "latency": lambda keep: measure(Plan.from_keep(coupling, keep)),
    }
    most = {**budgets, "ratio": 1 - budgets.get("ratio", 0)}
    return [(kind, most[kind], costs[kind]) for kind in costs if kind in budgets]


def _least(low: int, high: int, keep: Callable[[int], np.ndarray], limits: list) -> int:
    """The smallest number of groups to remove, `low` to `high`, within all limits."""
    for kind, most, cost in limits:

        def met(count: int, most: float = most, cost: Cost = cost) -> bool:
            return cost(keep(count)) <= most * (1 + 1e-9)

        if not met(high):
            raise ValueError(
                f"{kind} cannot come down to {most:g}: {cost(keep(high)):g} is left "
                f"when all {high} groups that may go are gone; allow more, lower "
                "min_width, or protect less"
            )
        low += bisect_left(range(low, high), True, key=met)
    return low
