"""What papers report, to stand beside what a run measures."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Reported(NamedTuple):
    """What a paper reports of a method on the network of an experiment.

    Attributes:
      method: the delivered network it stands beside, such as "stepwise".
      source: the paper, and what it leaves open.
      params: dense parameters per parameter that is left.
      macs: dense multiply-adds per multiply-add that is left; None if not reported.
      points: by how much the accuracy changes, in percentage points; None where the
        paper says no more than that nothing is lost.
    """

    method: str
    source: str
    params: float
    macs: float | None = None
    points: float | None = None


def active_stepwise_pruning(params: float) -> Reported:
    """What the paper says of each of its networks, but for the ratio."""
    return Reported(
        "stepwise", "Wang, Xing & Liu, 2020, data set not told in the abstract", params
    )


def beside(summary: Mapping[str, Any]) -> list[str]:
    """A line for each result of a paper, with what was measured.

    Args:
      summary: as in `report.json`: "reported" and "networks".
    """
    networks = summary["networks"]
    return [
        f"{paper['method']}: "
        + _measured(networks[paper["method"]], networks.get("dense"))
        + f" · reported: {_told(paper['params'], paper['macs'], paper['points'])}"
        + f" ({paper['source']})"
        for paper in summary.get("reported") or ()
        if paper["method"] in networks
    ]


def _measured(found: Mapping[str, Any], dense: Mapping[str, Any] | None) -> str:
    if dense is None:
        return "no dense network to compare with"
    macs = dense["macs"] / found["macs"]
    return _told(
        dense["nonzero"] / found["nonzero"],
        None if macs == 1 else macs,
        100 * (found["accuracy"] - dense["accuracy"]),
    )


def _told(params: float, macs: float | None, points: float | None) -> str:
    parts = [f"{params:.1f}× fewer parameters"]
    parts += [] if macs is None else [f"{macs:.1f}× fewer MACs"]
    parts += ["no accuracy loss" if points is None else f"accuracy {points:+.2f}"]
    return ", ".join(parts)
