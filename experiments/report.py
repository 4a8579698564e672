"""What a run found, to be read in ten seconds: a table in the terminal, a page in HTML.

It stands here and not in the library because it draws with rich and matplotlib.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments import page
from experiments.reported import beside

Summary = Mapping[str, Any]
"""As in `report.json`: networks, certificate, reported, data, versions, device, …"""
Record = Mapping[str, Any]
"""A line of `metrics.jsonl`: phase, step, epoch, loss, test_accuracy, …"""

_COLOURS = {
    "dense": "#6b7280",
    "stepwise": "#2563eb",
    "channels": "#ea580c",
    "small": "#16a34a",
}
_BRACKETS = (
    "In brackets: against the dense network of the same run (accuracy in points)."
)
_AFTER = {
    "dense_longer": "dense",
    "stepwise": "dense",
    "channels_sparsify": "dense",
    "channels_finetune": "channels_sparsify",
}


def table(summary: Summary) -> str:
    """The networks side by side, the certificate, what papers report; as text.

    Ratios in brackets compare with the dense network of the same run.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    heads, rows = _cells(summary)
    (first, *names), *measures = zip(heads, *rows, strict=True)
    text = Table(title=summary.get("title"), box=box.SIMPLE_HEAD, title_justify="left")
    text.add_column(first, no_wrap=True)
    for name in names:
        text.add_column(name, justify="right", no_wrap=True)
    for measure in measures:
        text.add_row(*measure)
    out = io.StringIO()
    console = Console(file=out, width=160, markup=False, color_system=None)
    console.print(text)
    for line in (certificate(summary), *beside(summary)):
        console.print(line, soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def certificate(summary: Summary) -> str:
    """One line on whether the compact network is the same function."""
    found = summary.get("certificate")
    if not found:
        return "certificate: none (no channels were removed)"
    difference, agreement = found["max_abs_diff"], found["argmax_agreement"]
    parts = [
        f"certificate: {found['verdict']}",
        f"max |Δlogit| {_or_dash(difference, '{:.2g}')}",
        f"argmax agreement {_or_dash(agreement, '{:.2%}')}",
    ]
    if found.get("examples"):
        parts.append(f"{found['examples']:,} examples")
    return " · ".join(parts)


def html(summary: Summary, metrics: Sequence[Record] = ()) -> str:
    """One self-contained page: table, certificate, plots, provenance."""
    heads, rows = _cells(summary)
    plots = svg(summary, metrics)
    verdict = (summary.get("certificate") or {}).get("verdict", "none")
    about = {
        "data": summary.get("data"),
        "device": summary.get("device"),
        **(summary.get("versions") or {}),
    }
    return page.page(
        summary.get("title", "jaxprune"),
        page.table(rows, heads),
        page.element("p", _BRACKETS),
        page.element(
            "p",
            certificate(summary),
            f"certificate {'exact' if verdict == 'exact' else 'other'}",
        ),
        *[page.element("p", line) for line in beside(summary)],
        f"<figure>{plots}</figure>" if plots else "",
        page.element("h2", "Provenance"),
        page.table([item for item in about.items() if item[1]], kind="about"),
    )


def svg(summary: Summary, metrics: Sequence[Record]) -> str:
    """The plots as one SVG element; empty when there is nothing to plot."""
    panels = [
        panel
        for panel in (
            _accuracy(metrics),
            _sparsity(summary.get("pruning")),
            _repairs(summary.get("pruning")),
            _live(metrics),
        )
        if panel
    ]
    if not panels:
        return ""
    rows = math.ceil(len(panels) / 2)

    def draw(figure: Any) -> None:
        for i, panel in enumerate(panels):
            panel(figure.add_subplot(rows, min(2, len(panels)), i + 1))

    return page.drawing(draw, size=(11, 3.4 * rows))


Panel = Callable[[Any], None]


def _accuracy(metrics: Sequence[Record]) -> Panel | None:
    """Test accuracy of all phases, each beginning where the one before it ended."""
    curves = _curves(metrics, "test_accuracy")
    if not curves:
        return None
    ends = {phase: max(r["epoch"] for r in metrics if r["phase"] == phase)
            for phase in {r["phase"] for r in metrics}}  # fmt: skip

    def begin(phase: str) -> float:
        before = _AFTER.get(phase)
        return begin(before) + ends.get(before, 0) if before else 0

    def draw(axes: Any) -> None:
        for phase, (epochs, values) in curves.items():
            axes.plot(
                [begin(phase) + e for e in epochs],
                [100 * v for v in values],
                label=phase.replace("_", " "),
                color=_colour(phase),
                linestyle=":" if phase == "dense" else "-",
                marker="." if len(epochs) < 60 else None,
            )
        axes.set(title="Test accuracy", xlabel="epoch", ylabel="%")
        axes.legend()

    return draw


def _sparsity(pruning: Record | None) -> Panel | None:
    """Sparsity and, where there is one for all leaves, the threshold of each cycle."""
    if not pruning or not pruning.get("sparsity"):
        return None
    sparsity, threshold = pruning["sparsity"], pruning.get("threshold") or []

    def draw(axes: Any) -> None:
        cycles = range(1, len(sparsity) + 1)
        blue = _COLOURS["stepwise"]
        axes.plot(cycles, [100 * s for s in sparsity], color=blue, marker=".")
        axes.set(title="Stepwise: sparsity", xlabel="cycle", ylabel="% pruned")
        axes.set_ylim(0, 100)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if threshold and all(isinstance(t, int | float) for t in threshold):
            right = axes.twinx()
            right.plot(cycles, threshold, color="#94a3b8", linestyle="--")
            right.set_ylabel("threshold (dashed)")
            right.grid(False)

    return draw


def _repairs(pruning: Record | None) -> Panel | None:
    """How many weights each cycle pruned and how many came back."""
    if not pruning or not pruning.get("pruned"):
        return None

    def draw(axes: Any) -> None:
        for offset, key in ((-0.2, "pruned"), (0.2, "repaired")):
            counts = pruning[key]
            places = [cycle + offset for cycle in range(1, len(counts) + 1)]
            colour = _COLOURS["stepwise" if key == "pruned" else "channels"]
            label = f"{key}, {sum(counts):,} in all"
            axes.bar(places, counts, width=0.4, color=colour, label=label)
        axes.set_yscale("symlog", linthresh=10)
        axes.set_ylim(0, 10 * max(1, *pruning["pruned"], *pruning["repaired"]))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(
            title="Stepwise: pruned and repaired", xlabel="cycle", ylabel="weights"
        )
        axes.legend()

    return draw


def _live(metrics: Sequence[Record]) -> Panel | None:
    """Share of the batch-norm scales that are not zero, while FISTA runs."""
    curves = _curves(metrics, "live_scales")
    if "channels_sparsify" not in curves:
        return None
    epochs, values = curves["channels_sparsify"]

    def draw(axes: Any) -> None:
        axes.plot(epochs, [100 * v for v in values], color=_COLOURS["channels"])
        axes.set(title="Channels: scales not zero", xlabel="epoch", ylabel="%")
        axes.set_ylim(0, 102)

    return draw


def _curves(metrics: Sequence[Record], key: str) -> dict[str, tuple[list, list]]:
    """For each phase the epochs and values of `key`, in the order of the epochs."""
    curves: dict[str, tuple[list, list]] = {}
    for record in sorted(metrics, key=lambda record: record["epoch"]):
        if record.get(key) is not None:
            epochs, values = curves.setdefault(record["phase"], ([], []))
            epochs.append(record["epoch"])
            values.append(record[key])
    return curves


def _colour(phase: str) -> str:
    return _COLOURS.get(phase.partition("_")[0], "#111827")


def _cells(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the table, all text."""
    networks = summary["networks"]
    dense = networks.get("dense", {})
    batches = sorted({int(n) for v in networks.values() for n in v["latency_ms"]})
    heads = ["network", "accuracy", "parameters", "non-zero", "MACs", "on disk"]
    heads += [f"latency, batch {n}" for n in batches]
    rows = []
    for name, found in networks.items():
        against = {} if name == "dense" else dense
        cells = [
            name,
            _accuracy_cell(found["accuracy"], against.get("accuracy")),
            *(
                _ratio_cell(found[key], against.get(key), form)
                for key, form in _COLUMNS.items()
            ),
        ]
        theirs = against.get("latency_ms", {})
        for n in map(str, batches):
            value = found["latency_ms"].get(n)
            cells.append(_ratio_cell(value, theirs.get(n), "{:.3g} ms".format))
        rows.append(cells)
    return heads, rows


def _accuracy_cell(value: float | None, dense: float | None) -> str:
    shown = _or_dash(value, "{:.2%}").replace("%", " %")
    if value is None or dense is None:
        return shown
    return f"{shown} ({100 * (value - dense):+.2f})"


def _ratio_cell(value: Any, dense: Any, form: Callable[[Any], str]) -> str:
    if value is None:
        return "–"
    ratio = f" ({dense / value:.1f}×)" if dense and value else ""
    return form(value) + ("" if ratio == " (1.0×)" else ratio)


def _si(unit: str) -> Callable[[float], str]:
    """12345678 → "12.3 M" and the unit."""

    def form(value: float) -> str:
        for power, prefix in ((9, "G"), (6, "M"), (3, "k")):
            if value >= 10**power:
                return f"{value / 10**power:.3g} {prefix}{unit}"
        return f"{value:g} {unit}".rstrip()

    return form


_COLUMNS: dict[str, Callable[[Any], str]] = {
    "params": "{:,}".format,
    "nonzero": "{:,}".format,
    "macs": _si(""),
    "bytes": _si("B"),
}


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None or not math.isfinite(value) else form.format(value)
