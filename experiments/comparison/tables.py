"""The comparison as text, Markdown and HTML."""

import io
from typing import Any

from experiments import page
from experiments.comparison.plot import plot
from experiments.comparison.summary import Summary

HEADS = (
    "method",
    "ratio",
    "runs",
    "accuracy, %",
    "Δ dense, points",
    "parameters",
    "MACs",
    "what it is",
)
NOTE = (
    "Mean ± standard deviation over seeds. Δ: against the dense network of the same "
    "seed, trained for the same epochs. Parameters: dense ones per one that is not "
    "zero; MACs: dense ones per one of the network, in which zeros count."
)


def text(summary: Summary) -> str:
    """For the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=summary["title"], box=box.SIMPLE_HEAD, title_justify="left")
    for head in HEADS:
        last = head == HEADS[-1]
        table.add_column(head, justify="left" if last else "right", no_wrap=not last)
    table.columns[0].justify = "left"
    for row in cells(summary):
        table.add_row(*row)
    out = io.StringIO()
    console = Console(file=out, width=160, markup=False, color_system=None)
    console.print(table)
    console.print(NOTE)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def markdown(summary: Summary, *, figure: str) -> str:
    """A table in GitHub's flavour, and the plot, which is in the file `figure`."""
    aligned = ["---", *["---:"] * (len(HEADS) - 2), "---"]
    rows = [HEADS, aligned, *cells(summary)]
    lines = ["| " + " | ".join(c.replace("|", "\\|") for c in r) + " |" for r in rows]
    return "\n".join(
        [
            f"# {summary['title']}",
            "",
            *lines,
            "",
            NOTE,
            "",
            f"![Accuracy against ratio]({figure})",
            "",
            *[f"- {name}: {value}" for name, value in about(summary).items()],
            "",
        ]
    )


def html(summary: Summary) -> str:
    """One self-contained page: table, plot, provenance."""
    return page.page(
        summary["title"],
        page.table(cells(summary), HEADS, kind="told"),
        page.element("p", NOTE),
        f"<figure>{plot(summary)}</figure>",
        page.element("h2", "Provenance"),
        page.table(about(summary).items(), kind="about"),
    )


def cells(summary: Summary) -> list[list[str]]:
    """The rows of the table under `HEADS`."""
    return [
        [
            row["method"],
            f"{row['ratio']:g}×",
            f"{row['finished']} of {row['runs']}",
            _number(row["accuracy"], ".2f", 100),
            "" if row["method"] == "dense" else _number(row["delta"], "+.2f", 100),
            _number(row["params_ratio"], ".1f", unit="×"),
            _number(row["macs_ratio"], ".1f", unit="×"),
            "; ".join([row["summary"], *_failures(row)]),
        ]
        for row in summary["rows"]
    ]


def about(summary: Summary) -> dict[str, str]:
    """Where the figures come from, by name."""
    known = {"data": summary["data"], "device": summary["device"]}
    known |= summary["versions"] or {}
    return {name: value for name, value in known.items() if value}


def _failures(row: dict[str, Any]) -> list[str]:
    return [f"{name} failed: {error}" for name, error in row["errors"].items()]


def _number(found: Any, form: str, scale: float = 1.0, unit: str = "") -> str:
    if found is None:
        return "–"
    shown = f"{scale * found['mean']:{form}}{unit}"
    if not found["spread"]:
        return shown
    return f"{shown} ± {scale * found['spread']:{form.lstrip('+')}}"
