"""How fast, how small, how it grows: each figure beside its baseline and its target.

    python -m experiments.benchmark [NAME …] [--torch-python PATH]

    thresholds  k-th magnitude of 138 M weights, against one pass and a sort    2 min
    chain       what the links of jaxprune add to a training step               2 min
    training    images per second, against PyTorch where it is given            3 min
    compact     compacted networks against dense ones, batch 1 and 128          1 min
    bytes       files of pruned networks against the bound                      1 min
    startup     from the command to the first step, cold and warm               1 min
    growth      thresholds and coupling against the size of the model           1 min

The minutes are those of two CPU cores. Baseline and candidate take turns in one
process; the table gives medians, quartiles and whether the target is met. Run it on a
machine that does nothing else.

PyTorch lives in an environment of its own, whose interpreter is given:

    python -m venv torch && torch/bin/pip install torch numpy
    python -m experiments.benchmark training --torch-python torch/bin/python
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tyro

from experiments import runtime

NAMES = "thresholds", "chain", "training", "compact", "bytes", "startup", "growth"


@dataclass(frozen=True)
class Config:
    """Measures, prints a table, and writes the figures as JSON.

    Attributes:
      names: which benchmarks; all by default.
      short: tiny sizes and few turns, to see that it works; the figures mean nothing.
      torch_python: an interpreter that has PyTorch; without it PyTorch is left out.
      out: folder for `benchmark.json` and the plot of growth.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    short: bool = False
    torch_python: Path | None = None
    out: Path = Path("runs/benchmark")


def run(config: Config) -> dict[str, list]:
    """The figures of each benchmark, written as JSON after each.

    Raises:
      ValueError: an unknown name, or an interpreter without PyTorch.
    """
    for name in config.names:
        if name not in NAMES:
            close = get_close_matches(name, NAMES) or NAMES
            raise ValueError(f"no benchmark {name!r}; is it {', '.join(close)}?")
    results = {}
    for name in config.names or NAMES:
        print(f"{name} …", file=sys.stderr, flush=True)
        start = time.perf_counter()
        results[name] = _benchmark(name, config)()
        print(f"  {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
        _write(results, config)
    return results


def _benchmark(name: str, config: Config) -> Callable[[], list]:
    """The function to call; imported late, since one may need what others do not."""
    from importlib import import_module

    module = import_module(f"experiments.benchmarks.{name}")
    options: dict[str, Any] = {"short": config.short}
    if name == "training":
        options["torch_python"] = config.torch_python
    if name == "growth":
        options["plot"] = config.out / "growth.svg"
    return lambda: module.run(**options)


def _write(results: dict[str, list], config: Config):
    import jaxprune as jp
    from experiments.runs import versions, write_text

    document = {
        "device": jp.cost.device_name(),
        "short": config.short,
        "versions": versions(),
        "figures": {
            name: [asdict(f) | {"met": f.met} for f in figures]
            for name, figures in results.items()
        },
    }
    write_text(config.out / "benchmark.json", json.dumps(document, indent=1))


def table(results: dict[str, list]):
    """The figures as a terminal table."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows.add_column("benchmark")
    rows.add_column("figure")
    for heading in ("median", "quartiles", "target"):
        rows.add_column(heading, justify="right")
    rows.add_column("met")
    for name, figures in results.items():
        for figure in figures:
            spread = (
                ""
                if figure.low == figure.high
                else f"{_three(figure.low)} – {_three(figure.high)}"
            )
            met = {True: "yes", False: "no", None: ""}[figure.met]
            median = f"{_three(figure.value)} {figure.unit}"
            rows.add_row(name, figure.what, median, spread, _target(figure), met)
        rows.add_section()
    return rows


def _target(figure) -> str:
    if figure.least is not None:
        return f"≥ {figure.least:.3g}"
    return "" if figure.most is None else f"≤ {figure.most:.3g}"


def _three(value: float) -> str:
    """Three digits, more where the number has them before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def main(args: Sequence[str] | None = None) -> int:
    """Prints the table; 0 whether or not targets are met, 2 for bad input."""
    config = tyro.cli(Config, args=args, description=__doc__)
    runtime.configure()
    from rich.console import Console

    try:
        results = run(config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(results))
    console.print(f"written to {config.out / 'benchmark.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
