"""How the time of thresholds and of coupling grows with the size of the model.

Each is timed over a range of sizes and fitted by time ∝ size^p: linear is p = 1. The
log-log plot is written beside the results.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

import jaxprune as jp
from experiments.benchmarks.figure import Figure, alternate, single

_LEAVES = 16


def run(short: bool, plot: Path) -> list[Figure]:
    """10⁵ … 10⁹ weights where memory allows; 10 … 1,000 layers."""
    decades = (4, 5) if short else range(5, 10)
    sizes = [10**n for n in decades if 12 * 10**n < _memory()]
    layers = (4, 8) if short else (10, 30, 100, 300, 1000)
    turns = 2 if short else 5
    curves = {
        "thresholds": ("weights", sizes, [_threshold_seconds(n, turns) for n in sizes]),
        "coupling": ("layers", layers, [_coupling_seconds(n, turns) for n in layers]),
    }
    _draw(curves, plot)
    figures = []
    for name, (unit, xs, seconds) in curves.items():
        for x, s in zip(xs, seconds, strict=True):
            figures.append(single(f"{name}: {x:,} {unit}", 1e3 * s, "ms"))
        power = float(np.polyfit(np.log(xs[-3:]), np.log(seconds[-3:]), 1)[0])
        limit = {} if short else {"most": 1.15}
        figures.append(single(f"{name}: power of the growth", power, "", **limit))
    return figures


def _memory() -> int:
    """Bytes that may be used: half of the machine's."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _threshold_seconds(size: int, turns: int) -> float:
    rng = np.random.default_rng(0)
    rows = size // _LEAVES // 64
    scores = [
        jnp.asarray(np.abs(rng.standard_normal((rows, 64), np.float32)))
        for _ in range(_LEAVES)
    ]
    k = jnp.int32(0.9 * size)
    kth = jax.jit(jp.thresholds.kth_smallest).lower(scores, k).compile()
    return float(np.median(alternate({"kth": lambda: kth(scores, k)}, turns)["kth"]))


def _coupling_seconds(layers: int, turns: int) -> float:
    """Of tracing a network of residual pairs of layers, 16 wide."""
    variables = {f"layer{i}": jnp.zeros((16, 16)) for i in range(layers)}

    def trace():
        def network(variables, x):
            for i, w in enumerate(variables.values()):
                y = jnp.tanh(x @ w)
                x = x + y if i % 2 else y
            return x

        jp.trace_coupling(network, variables, jnp.zeros((1, 16)))

    return float(np.median(alternate({"trace": trace}, turns)["trace"]))


def _draw(curves, plot: Path):
    figure = matplotlib.figure.Figure(figsize=(8, 3.5), layout="constrained")
    for axes, (name, (unit, xs, seconds)) in zip(
        figure.subplots(1, 2), curves.items(), strict=True
    ):
        linear = np.asarray(xs) * seconds[-1] / xs[-1]
        axes.loglog(xs, linear, "--", color="0.7", label="linear")
        axes.loglog(xs, seconds, "o-", label=name)
        axes.set(xlabel=unit, ylabel="seconds", title=name)
        axes.legend(frameon=False)
    plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(plot, format="svg")
