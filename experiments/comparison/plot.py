"""Accuracy against ratio, as an SVG element."""

from typing import Any

from experiments.comparison.summary import Summary
from experiments.page import drawing

_MARKERS = "osD^v<>Ph*Xpd"


def plot(summary: Summary) -> str:
    """Each method's mean accuracy, with its spread, over the ratio of parameters.

    Methods at the same ratio stand beside each other: from left to right in the order
    of the legend. The dense network is the line across, its spread the band. Empty when
    nothing is known.
    """
    rows = [row for row in summary["rows"] if row["params_ratio"] is not None]

    def draw(figure: Any) -> None:
        if rows:
            _draw(figure.add_subplot(), rows)
            figure.legend(loc="outside right upper")

    return drawing(draw, size=(11, 5))


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    from matplotlib import colormaps

    methods = list(dict.fromkeys(row["method"] for row in rows))
    for i, method in enumerate(methods):
        own = [row for row in rows if row["method"] == method]
        y = [100 * row["accuracy"]["mean"] for row in own]
        error = [100 * (row["accuracy"]["spread"] or 0) for row in own]
        if method == "dense":
            axes.axhline(y[0], color="#6b7280", linestyle=":", label="dense")
            axes.axhspan(y[0] - error[0], y[0] + error[0], color="#6b7280", alpha=0.1)
            continue
        aside = 1.01 ** (i - len(methods) / 2)
        axes.errorbar(
            [aside * row["params_ratio"]["mean"] for row in own],
            y,
            error,
            color=colormaps["tab20"](i % 20),
            marker=_MARKERS[i % len(_MARKERS)],
            linewidth=1,
            capsize=2,
            label=method,
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}×")
    axes.xaxis.set_minor_formatter("{x:g}×")
    axes.set(xlabel="dense parameters per parameter left", ylabel="test accuracy, %")
