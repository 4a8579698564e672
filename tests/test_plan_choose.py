"""The smallest removal that meets all budgets."""

from types import SimpleNamespace

import numpy as np
import pytest

import jaxprune as jp
from jaxprune.plan import importance

VARIABLES = {
    "w": np.ones((2, 8), np.float32) * np.arange(1, 9, dtype=np.float32),
    "v": np.ones((8, 4), np.float32),
    "u": np.ones((4, 3), np.float32) * np.array([[4], [1], [2], [3]], np.float32),
}


class Coupling:
    """Eight channels between w and v (groups 1 … 8), four between v and u (9 … 12)."""

    size = 12
    hidden, last = np.arange(1, 9), np.arange(9, 13)
    leaves = {  # noqa: RUF012
        path: SimpleNamespace(shape=VARIABLES[path].shape, labels=labels)
        for path, labels in {
            "w": (np.zeros(2, int), hidden),
            "v": (hidden, last),
            "u": (last, np.zeros(3, int)),
        }.items()
    }

    def params(self, keep, counted=None):
        widths = jp.Plan.from_keep(self, keep).widths
        return sum(
            int(np.prod(shape))
            for path, shape in widths.items()
            if counted is None or counted(path, None)
        )

    def macs(self, keep):
        return 10 * self.params(keep)


COUPLING = Coupling()


def plan(**options):
    return jp.make_plan(COUPLING, VARIABLES, **options)


def removed(**options):
    """The groups that go."""
    return (np.flatnonzero(~plan(**options).to_keep(COUPLING))).tolist()


def columns(path, leaf):
    """Scores of the channels after w only: 1 … 8."""
    return leaf if path == "w" else None


def test_dead_groups_go_without_a_budget():
    dead = np.isin(np.arange(13), [2, 11])
    assert removed(dead=dead) == [2, 11]
    everything = np.ones(13, bool)
    assert plan(dead=everything).widths == {"w": (2, 1), "v": (1, 1), "u": (1, 3)}


def test_the_least_important_go_first():
    scores = np.array([0, 5, 3, 8, 7, 6, 9, 4, 2, 11, 1, 12, 10.0])
    assert removed(score=scores, ratio=0.25) == [2, 8, 10]
    assert removed(score=scores, ratio=0) == []
    dead = np.isin(np.arange(13), [6])
    assert removed(score=scores, dead=dead, ratio=0.25) == [6, 8, 10]
    assert removed(score=scores, dead=dead, params=1000) == [6]


@pytest.mark.parametrize(
    ("combine", "expected"),
    [("sum", 2 * 3 + 4), ("mean", 10 / 6), ("max", 3), ("norm", np.sqrt(2 * 9 + 4))],
)
def test_entries_of_a_group_are_combined(combine, expected):
    scores = importance.group_scores(
        COUPLING, VARIABLES, importance.magnitude, combine=combine
    )
    assert scores[3] == pytest.approx(expected)
    assert scores[0] == np.inf


def test_scores_can_be_relative_to_the_layer():
    def score(path, leaf):
        return leaf if path != "v" else None

    by_rank = removed(score=score, normalize="rank", ratio=0.5)
    assert by_rank == [1, 2, 3, 4, 10, 11]
    scores = importance.group_scores(COUPLING, VARIABLES, score, normalize="mean")
    assert scores[1:9].mean() == pytest.approx(1)
    assert scores[9:].mean() == pytest.approx(1)


def test_first_order_and_batch_norm_and_random():
    gradients = {"w": -2 * VARIABLES["w"]}
    scores = importance.group_scores(
        COUPLING, VARIABLES, importance.first_order(gradients), combine="sum"
    )
    np.testing.assert_allclose(scores[1:9], 2 * 2 * np.arange(1, 9) ** 2)
    assert importance.batch_norm_scale("a/BatchNorm_0/scale", -np.ones(3))[0] == 1
    assert importance.batch_norm_scale("a/BatchNorm_0/bias", np.ones(3)) is None
    assert importance.batch_norm_scale("a/LayerNorm_0/scale", np.ones(3)) is None
    drawn = importance.random(COUPLING, seed=3)
    assert removed(score=drawn, ratio=0.2) == removed(score=drawn, ratio=0.2)
    assert not np.array_equal(drawn, importance.random(COUPLING, seed=4))


def test_all_budgets_are_met_by_the_smallest_removal():
    for budgets in ({"params": 33}, {"macs": 300}, {"params": 40, "macs": 250}):
        gone = len(removed(score=importance.magnitude, **budgets))
        costs = {"params": COUPLING.params, "macs": COUPLING.macs}
        scores = importance.group_scores(COUPLING, VARIABLES, importance.magnitude)
        order = np.argsort(scores, stable=True)
        keep = np.ones(13, bool)
        keep[order[:gone]] = False
        assert all(costs[name](keep) <= most for name, most in budgets.items())
        keep[order[gone - 1]] = True
        assert any(costs[name](keep) > most for name, most in budgets.items())


def test_latency_is_measured():
    measured = []

    def milliseconds(plan):
        measured.append(plan)
        return plan.widths["w"][1] / 2

    small = plan(score=columns, latency=3.0, measure=milliseconds, ratio=0.0)
    assert small.widths["w"] == (2, 6)
    assert len(measured) <= 6


def test_latency_of_a_function():
    def mlp(v, x):
        return x @ v["w"] @ v["v"] @ v["u"]

    measure = jp.measured_latency(mlp, VARIABLES, np.ones((1, 2), np.float32))
    assert measure(plan(score=columns, ratio=0.2)) > 0


def test_minimum_width():
    least = plan(score=columns, params=36, min_width=3)
    assert least.widths["w"][1] >= 3
    with pytest.raises(ValueError, match=r"params cannot come down to 5: 6 is left"):
        plan(score=importance.magnitude, params=5)
    with pytest.raises(ValueError, match="lower min_width"):
        plan(score=importance.magnitude, ratio=0.9, min_width=3)


def test_widths_are_rounded_up_to_a_multiple():
    scores = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 21, 22, 23.0])
    assert plan(score=scores, params=45).widths["w"] == (2, 5)
    assert plan(score=scores, params=45, multiple_of=2).widths["w"] == (2, 4)
    assert plan(score=scores, params=45, multiple_of=4).widths["w"] == (2, 4)
    with pytest.raises(ValueError, match="params cannot come down to 45: 60 is left"):
        plan(score=scores, params=45, multiple_of=16)


def test_rounding_keeps_the_best():
    scores = np.array([0, 3, 1, 2, 8, 7, 6, 5, 4, 20, 21, 22, 23.0])
    assert removed(score=scores, ratio=0.2, multiple_of=2) == [1, 2, 3, 8]


def test_protected_leaves_keep_all_their_channels():
    spared = removed(
        score=importance.magnitude, ratio=0.2, protect=jp.paths.matching("^w$")
    )
    assert min(spared) >= 9
    with pytest.raises(ValueError, match="matches none"):
        plan(score=columns, ratio=0.2, protect=jp.paths.matching("nowhere"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "what should go"),
        ({"params": 10}, "what should go"),
        ({"dead": np.ones(13, bool), "params": 10}, "a budget needs score="),
        ({"score": columns}, "score= needs a budget"),
        ({"dead": np.ones(4, bool)}, r"dead must have shape \(13,\), got \(4,\)"),
        ({"score": columns, "ratio": 1.0}, r"ratio must be in \[0, 1\), got 1.0"),
        ({"score": columns, "params": 0}, "params must be > 0, got 0"),
        ({"score": columns, "ratio": 0.1, "min_width": 0}, "min_width must be ≥ 1"),
        ({"score": columns, "latency": 3}, "latency= and measure= go together"),
        ({"score": np.ones(3), "ratio": 0.1}, r"must have shape \(13,\), got \(3,\)"),
        ({"score": -np.ones(13), "ratio": 0.1}, "scores must be ≥ 0"),
        ({"score": np.full(13, np.nan), "ratio": 0.1}, "scores must be ≥ 0, got nan"),
        ({"score": lambda p, x: None, "ratio": 0.1}, "scores no leaf"),
        ({"score": lambda p, x: x[0], "ratio": 0.1}, "has shape"),
        ({"score": columns, "ratio": 0.1, "combine": "min"}, "combine must be"),
        ({"score": columns, "ratio": 0.1, "normalize": "max"}, "normalize must be"),
    ],
)
def test_what_was_not_asked_well(options, message):
    with pytest.raises(ValueError, match=message):
        plan(**options)


def test_only_what_is_counted_makes_up_the_parameters():
    scores = np.arange(13.0)
    of_w = plan(score=scores, params=8, counted=jp.paths.matching("^w$")).widths
    assert of_w["w"] == (2, 4)
    assert sum(map(np.prod, plan(score=scores, params=60).widths.values())) <= 60


def test_scores_per_cost_are_divided_by_what_the_group_saves():
    scores = np.ones(13)
    divided = importance.per_cost(COUPLING, scores, params=1.0)
    saved = np.array([6, 11]) / 60  # a column of w and a row of v; of v and of u
    np.testing.assert_allclose(divided[[1, 8]], 1 / saved[0])
    np.testing.assert_allclose(divided[[9, 12]], 1 / saved[1])
    both = importance.per_cost(COUPLING, scores, params=1.0, macs=1.0)
    np.testing.assert_allclose(both[1:], divided[1:] / 2)
    with pytest.raises(ValueError, match="not both 0"):
        importance.per_cost(COUPLING, scores)
