"""The methods that can be compared: each is a few fields over the shared config."""

from typing import Any, NamedTuple


class Method(NamedTuple):
    """A method.

    Attributes:
      summary: what it is, in a line.
      fields: what it changes in the config that all methods share. One that sets
        `ratio` is run once, not for every ratio of the comparison.
    """

    summary: str
    fields: dict[str, Any]


def _stepwise(summary: str, **fields: Any) -> Method:
    return Method(summary, {"methods": ("stepwise",), **fields})


def _channels(summary: str, **fields: Any) -> Method:
    return Method(summary, {"methods": ("channels",), **fields})


METHODS = {
    "dense": Method(
        "dense network, trained on for the same epochs",
        {"methods": ("dense",), "ratio": 1.0},
    ),
    "small": Method(
        "small dense network of the same size, trained for all the epochs",
        {"methods": ("small",), "start": "scratch"},
    ),
    # weight by weight
    "stepwise": _stepwise(
        "active stepwise pruning: logarithmic steps, one global threshold, recovery"
    ),
    "no_recovery": _stepwise("stepwise without recovery", recover=False),
    "no_hysteresis": _stepwise("stepwise without hysteresis", hysteresis=0.0),
    "cubic": _stepwise("stepwise with a cubic schedule", schedule="cubic"),
    "linear": _stepwise("stepwise with a linear schedule", schedule="linear"),
    "per_leaf": _stepwise("stepwise, the same share of each leaf", distribution="leaf"),
    "erk": _stepwise("stepwise, shares by Erdős–Rényi-kernel", distribution="erk"),
    "2_of_4": _stepwise(
        "stepwise, 2 of every 4 weights", distribution="2:4", ratio=2.0
    ),
    "layer_normalised": _stepwise(
        "stepwise by magnitude over its root mean square in the layer",
        score="layer_normalised",
    ),
    "one_shot": _stepwise(
        "one-shot magnitude pruning", schedule="one_shot", recover=False
    ),
    "gradual": _stepwise(
        "gradual magnitude pruning (Zhu & Gupta, 2018): cubic, no recovery",
        schedule="cubic",
        recover=False,
        hysteresis=0.0,
    ),
    "random": _stepwise("random masks, one-shot", score="random", schedule="one_shot"),
    "rigl": _stepwise(
        "RigL (Evci et al., 2020): drop by magnitude, grow by gradient, from scratch",
        regrow="gradient",
        distribution="erk",
        start="scratch",
    ),
    "set": _stepwise(
        "SET (Mocanu et al., 2018): drop by magnitude, grow at random, from scratch",
        regrow="random",
        distribution="erk",
        start="scratch",
    ),
    # channel by channel
    "channels": _channels(
        "channel pruning: FISTA on γ and β with auxiliary classifiers"
    ),
    "ista": _channels("channels by ISTA, without momentum", solver="ista"),
    "gamma_only": _channels("channels with the penalty on γ alone", l1_shift=0.0),
    "no_heads": _channels("channels without auxiliary classifiers", aux_at=()),
    "slimming": _channels(
        "Network Slimming (Liu et al., 2017): subgradient on γ, then the smallest go",
        solver="subgradient",
        l1_shift=0.0,
        aux_at=(),
    ),
}
