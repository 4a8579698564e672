"""Methods side by side: the same network, data, epochs and seeds, one table.

python -m experiments.compare --preset smoke            # embedded digits, minutes
python -m experiments.compare --network vgg16           # quick
python -m experiments.compare --methods stepwise gradual small --ratios 4 8 16
python -m experiments.compare --help
"""

import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import jax

from experiments import cli, runtime
from experiments.comparison import children, tables
from experiments.comparison.board import Board
from experiments.comparison.jobs import NETWORKS, Shared, command, make_jobs
from experiments.comparison.methods import METHODS
from experiments.comparison.plot import plot
from experiments.comparison.summary import Summary, summarise
from experiments.errors import RunError
from experiments.runs import open_run, write_text

Network = Literal[tuple(NETWORKS)]
Method = Literal[tuple(METHODS)]


@dataclasses.dataclass(frozen=True)
class Comparison:
    __doc__ = "\n".join(
        [
            "Runs methods × ratios × seeds, each in a process of its own; one table.",
            "",
            "Methods:",
            *[f"  {name}: {method.summary}" for name, method in METHODS.items()],
        ]
    )

    workdir: Path
    """Folder of the comparison; started again with the same folder, it goes on."""
    network: Network
    """The network; decides what the other fields are by default."""
    methods: tuple[Method, ...]
    """What to compare; the dense network, where all start, is always there."""
    ratios: tuple[float, ...]
    """Dense parameters per parameter that is left; 2_of_4 has its own."""
    seeds: tuple[int, ...]
    """Seeds of the weights, and of the order and augmentation of the images."""
    jobs: int
    """How many processes at a time; the cores are dealt out among them."""
    run: Shared
    """What the runs share."""

    def __post_init__(self):
        for field in ("methods", "ratios", "seeds"):
            if not getattr(self, field):
                raise ValueError(f"{field} must be one or more, got none")
        if self.jobs < 1:
            raise ValueError(f"jobs must be 1 or more, got {self.jobs}")


def run(comparison: Comparison) -> Summary:
    """Runs what is unfinished; writes `comparison.json`, `.md`, `.html` and `.svg`.

    Returns:
      The summary, as in `comparison.json`.

    Raises:
      RunError: the folder cannot be used; or, once all is written, runs have failed.
      KeyboardInterrupt: after Ctrl-C, once everything is saved.
    """
    free = ("workdir", "methods", "ratios", "seeds", "jobs")
    with (
        open_run(comparison.workdir, comparison, free=free) as opened,
        Board() as board,
    ):
        jobs = make_jobs(
            comparison.run,
            opened.folder,
            comparison.methods,
            comparison.ratios,
            comparison.seeds,
        )
        start = partial(command, network=comparison.network)
        failed = children.run(jobs, start, board, at_once=comparison.jobs)
        title = f"{comparison.network} on {comparison.run.data}"
        summary = summarise(title, jobs, failed)
        write(summary, opened.folder)
        board.say(tables.text(summary))
        board.say(f"comparison: {opened.folder / 'comparison.html'}")
    if failed:
        raise RunError(
            f"{len(failed)} of {len(jobs)} runs failed; their logs are in "
            f"{opened.folder / 'runs'}"
        )
    return summary


def write(summary: Summary, folder: Path) -> None:
    """Writes the table and the plot in all their forms."""
    name = "comparison"
    write_text(folder / f"{name}.json", json.dumps(summary, indent=2))
    write_text(folder / f"{name}.md", tables.markdown(summary, figure=f"{name}.svg"))
    write_text(folder / f"{name}.html", tables.html(summary))
    write_text(folder / f"{name}.svg", plot(summary))


_CHOSEN = (
    "dense",
    "small",
    "stepwise",
    "no_recovery",
    "one_shot",
    "gradual",
    "random",
    "rigl",
    "channels",
    "slimming",
)


def presets(network: str | None = None) -> dict[str, cli.Preset]:
    """By name, on `network`, or on the one that each suggests."""
    small, large = network or "convnet", network or "mobilenet"
    return {
        "smoke": _preset("smoke", small, seeds=(0, 1), jobs=2, cost="minutes"),
        "quick": _preset("quick", large, seeds=(0, 1, 2), cost="hours"),
        "full": _preset(
            "full",
            large,
            seeds=(0, 1, 2),
            methods=tuple(METHODS),
            ratios=(0.5, 1, 2),
            cost="for an accelerator",
        ),
    }


def _preset(
    name: str,
    network: str,
    *,
    seeds: tuple[int, ...],
    methods: Sequence[str] = _CHOSEN,
    ratios: Sequence[float] = (1,),
    jobs: int = 1,
    cost: str,
) -> cli.Preset:
    """The runs share the preset of the same name in the network's own experiment.

    Its ratio is what `ratios` multiply; methods of a kind that it leaves out, such as
    channels where there is no batch norm, are left out here as well.
    """
    runs = importlib.import_module(NETWORKS[network]).PRESETS
    config = runs.get(name, next(iter(runs.values()))).config
    kinds = {*config.methods, "small"}
    comparison = Comparison(
        workdir=Path(f"runs/compare_{network}_{name}"),
        network=network,
        methods=tuple(m for m in methods if kinds & {*METHODS[m].fields["methods"]}),
        ratios=tuple(config.ratio * multiple for multiple in ratios),
        seeds=seeds,
        jobs=jobs,
        run=Shared.of(config),
    )
    count = f"{len(comparison.methods)} methods, {len(seeds)} seeds"
    return cli.Preset(comparison, f"{network} on {config.data}, {count}; {cost}")


def main(args: Sequence[str] | None = None) -> int:
    """The command line."""
    runtime.configure()
    jax.config.update("jax_platforms", "cpu")  # an accelerator is for the runs
    # The runs share even what compiles in a moment: there is much of it in each.
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    args = list(sys.argv[1:] if args is None else args)
    network = cli.peek("--network", NETWORKS, args)
    return cli.main(run, presets(network), lambda: "quick", args)


if __name__ == "__main__":
    sys.exit(main())
