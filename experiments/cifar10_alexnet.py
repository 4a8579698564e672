"""AlexNet on CIFAR-10, pruned weight by weight to 1/11.7 of its parameters.

python -m experiments.cifar10_alexnet                  # quick on a CPU
python -m experiments.cifar10_alexnet --preset smoke   # embedded digits, minutes
python -m experiments.cifar10_alexnet --help
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from experiments import cli, pipeline
from experiments.config import Config
from experiments.experiment import Architecture
from experiments.models.alexnet import alexnet
from experiments.reported import active_stepwise_pruning
from jaxprune import paths

ALEXNET = Architecture(name="AlexNet", build=alexnet, depth=5, prunable=paths.kernels)
EXPECTED = (active_stepwise_pruning(params=11.7),)

FULL = Config(
    workdir=Path("runs/cifar10_alexnet"),
    methods=("dense", "stepwise"),
    ratio=11.7,
    params_ratio=11.7,
    floor=0.02,
    learning_rate=0.05,
    prune_learning_rate=0.02,
)
QUICK = dataclasses.replace(
    FULL, width=0.5, epochs=2, prune_epochs=4, prune_learning_rate=0.1
)
SMOKE = dataclasses.replace(
    QUICK,
    workdir=Path("runs/smoke_alexnet"),
    prune_learning_rate=0.02,
    data="digits",
    width=0.25,
    epochs=5,
    prune_epochs=5,
    batch_size=32,
    average_last=0.0,
    pruning_steps=10,
)
PRESETS = {
    "smoke": cli.Preset(SMOKE, "embedded digits, width 0.25; 2 minutes on 2 cores"),
    "quick": cli.Preset(QUICK, "CIFAR-10, width 0.5; 12 minutes on 2 cores"),
    "full": cli.Preset(FULL, "CIFAR-10, width 1.0; 320 epochs, for an accelerator"),
}


def run(config: Config = QUICK) -> dict[str, Any]:
    """Runs the experiment; the report is returned and written to `config.workdir`."""
    return pipeline.run(config, ALEXNET, EXPECTED)


if __name__ == "__main__":
    sys.exit(pipeline.main(run, PRESETS))
