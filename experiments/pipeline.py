"""From a dense network to compressed ones: what all experiments share.

    dense ─┬─ trains on ───────────────────────────────▶ dense
           ├─ active stepwise pruning ─────────────────▶ stepwise
           └─ FISTA ─ plan, removal, certificate ─ fine-tuning ▶ channels
    a small network, dense from the start ───────────────▶ small

Every branch sees the same number of images, augmented in the same way.
"""

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from experiments import branches, cli, data, results, runtime
from experiments.config import Config
from experiments.experiment import Architecture, Experiment
from experiments.progress import Progress
from experiments.reported import Reported
from experiments.runs import open_run

_FREE = ("workdir", "data_dir", "methods", "workers")
"""Fields that may change from one start in a folder to the next."""

_STARTED = {
    "dense": branches.train_longer,
    "stepwise": branches.stepwise,
    "channels": branches.channels,
}


def run(
    config: Config,
    architecture: Architecture,
    reported: tuple[Reported, ...] = (),
    *,
    dataset: data.Dataset | data.Stream | None = None,
) -> dict[str, Any]:
    """Runs what `config.methods` names and writes networks and report.

    Started again with the same `workdir` it goes on where it stopped.

    Args:
      config: what to run.
      architecture: the network.
      reported: what papers report, to stand in the report beside what is measured.
      dataset: instead of what `config.data` names.

    Returns:
      The report, as written to `report.json`.

    Raises:
      DataError: the data are not found, or damaged.
      RunError: the run's folder cannot be used.
      NotFinite: training has diverged.
      KeyboardInterrupt: after Ctrl-C, once everything is saved.
    """
    if dataset is None:
        dataset = data.load(config.data, config.data_dir)
    with (
        open_run(config.workdir, config, free=_FREE) as folder,
        Progress() as progress,
    ):
        experiment = Experiment(
            config, architecture, dataset, folder, progress, reported
        )
        branches.check(experiment)
        progress.steps = _planned(experiment)
        delivered = {}
        if chosen := [name for name in _STARTED if name in config.methods]:
            start = branches.start(experiment)
            delivered = {name: _STARTED[name](experiment, start) for name in chosen}
        if "small" in config.methods:
            delivered["small"] = branches.small(experiment)
        return results.write(experiment, delivered)


def main(run: Callable[[Config], Any], presets: Mapping[str, cli.Preset]) -> int:
    """The command line of an experiment: quick on a CPU, full on an accelerator."""
    runtime.configure()
    cli.show_log()
    default = partial(cli.by_device, cpu="quick", accelerator="full")
    return cli.main(run, presets, default)


def _planned(experiment: Experiment) -> dict[str, int]:
    """Updates of each phase to come, for the time left."""
    config = experiment.config
    fista = experiment.branch_epochs - experiment.finetune_epochs
    trained = config.start == "dense" and config.start_from is None
    phases = {
        "dense": [("dense_longer", experiment.branch_epochs)],
        "stepwise": [("stepwise", experiment.branch_epochs)],
        "channels": [
            ("channels_sparsify", fista),
            ("channels_finetune", experiment.finetune_epochs),
        ],
        "small": [("small", config.epochs + config.prune_epochs)],
    }
    started = [("dense", config.epochs)] * (trained and config.methods != ("small",))
    chosen = [phases[name] for name in phases if name in config.methods]
    return {name: experiment.steps(n) for name, n in itertools.chain(started, *chosen)}
