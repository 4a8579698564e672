"""Is the optimizer's state worth carrying through the removal of channels?

One compact MobileNet is fine-tuned with the shrunk state of the optimizer and with a
new one, for several orders of the images each; the curves are drawn.

    python -m experiments.carried_state                  # embedded digits, minutes
    python -m experiments.carried_state --preset quick   # CIFAR-10
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments import branches, cifar10_mobilenet, cli, config, data, runtime
from experiments.experiment import Experiment
from experiments.models.heads import drop_heads
from experiments.progress import Progress
from experiments.runs import open_run, write_text

_POINT_EVERY = 2
"""Updates from one point of the curves to the next."""


@dataclasses.dataclass(frozen=True)
class Config(config.Config):
    """Fine-tunes a compact MobileNet with and without the shrunk optimizer state."""

    orders: int = 3
    """How many orders of the images each is fine-tuned with."""


def run(config: Config) -> dict[str, Any]:
    """Runs both; returns curves and accuracies, as written to `curves.json`.

    Returns:
      For "carried" and "new": {"step": [...], "loss": one list for each order,
      "accuracy": one number for each order}.
    """
    dataset = data.load(config.data, config.data_dir)
    with (
        open_run(config.workdir, config, free=("workdir", "data_dir")) as folder,
        Progress() as progress,
    ):
        experiment = Experiment(
            config, cifar10_mobilenet.MOBILENET, dataset, folder, progress
        )
        sparse = branches.sparsify(experiment, branches.train_dense(experiment))
        removal = branches.remove(experiment, drop_heads(sparse.variables))
        progress.say(branches.describe(removal))
        shrunk = branches.shrunk_state(removal, sparse)
        found = {
            kind: _curves(experiment, removal, kind, state)
            for kind, state in {"carried": shrunk, "new": None}.items()
        }
        write_text(folder.folder / "curves.json", json.dumps(found, indent=2))
        _draw(found, folder.folder / "curves.svg")
        for kind, curves in found.items():
            accuracy = 100 * np.array(curves["accuracy"])
            start = np.mean([loss[0] for loss in curves["loss"]])
            progress.say(
                f"{kind} state: first loss {start:.3f}, test accuracy "
                f"{accuracy.mean():.2f} ± {accuracy.std():.2f} %"
            )
        progress.say(f"curves: {folder.folder / 'curves.svg'}")
    return found


def _curves(
    experiment: Experiment, removal: branches.Removal, kind: str, state: Any
) -> dict[str, Any]:
    fitted, losses = [], []
    for order in range(experiment.config.orders):
        name = f"{kind}_{order}"
        fitted.append(
            branches.finetune(
                experiment,
                removal,
                state,
                name=name,
                seed=order,
                log_every=_POINT_EVERY,
            )
        )
        lines = (experiment.run.folder / "metrics.jsonl").read_text().splitlines()
        records = [r for r in map(json.loads, lines) if r["phase"] == name]
        losses.append([r["loss"] for r in records])
    return {
        "step": [r["step"] for r in records],
        "loss": losses,
        "accuracy": [f.result["test_accuracy"] for f in fitted],
    }


def _draw(found: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for (kind, curves), colour in zip(
        found.items(), ("#ea580c", "#6b7280"), strict=True
    ):
        losses = np.array(curves["loss"])
        axes.plot(curves["step"], losses.mean(0), color=colour, label=f"{kind} state")
        axes.fill_between(
            curves["step"], losses.min(0), losses.max(0), color=colour, alpha=0.2
        )
    axes.set(
        xlabel="update of the fine-tuning", ylabel="loss, mean of the epoch so far"
    )
    axes.legend()
    figure.savefig(path)


def _preset(name: str) -> cli.Preset:
    preset = cifar10_mobilenet.PRESETS[name]
    fields = {**vars(preset.config), "workdir": Path(f"runs/carried_state_{name}")}
    return cli.Preset(Config(**fields), preset.cost)


PRESETS = {name: _preset(name) for name in cifar10_mobilenet.PRESETS}


def main() -> int:
    """The command line."""
    runtime.configure()
    cli.show_log()
    return cli.main(run, PRESETS, lambda: "smoke")


if __name__ == "__main__":
    sys.exit(main())
