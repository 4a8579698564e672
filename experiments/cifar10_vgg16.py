"""VGG-16 on CIFAR-10, pruned weight by weight to 1/16.6 of its parameters.

python -m experiments.cifar10_vgg16                  # quick on a CPU
python -m experiments.cifar10_vgg16 --preset smoke   # embedded digits, minutes
python -m experiments.cifar10_vgg16 --help
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from experiments import cli, pipeline
from experiments.config import Config
from experiments.experiment import Architecture
from experiments.models.vgg import vgg16
from experiments.reported import active_stepwise_pruning
from jaxprune import paths

VGG16 = Architecture(name="VGG-16", build=vgg16, depth=13, prunable=paths.kernels)
EXPECTED = (active_stepwise_pruning(params=16.6),)

FULL = Config(
    workdir=Path("runs/cifar10_vgg16"),
    methods=("dense", "stepwise"),
    ratio=16.6,
    params_ratio=16.6,
    floor=0.02,
    learning_rate=0.05,
    prune_learning_rate=0.02,
)
QUICK = dataclasses.replace(
    FULL,
    width=0.1875,
    epochs=2,
    prune_epochs=4,
    prune_learning_rate=0.05,
    small_share=0.75,
)
SMOKE = dataclasses.replace(
    QUICK,
    workdir=Path("runs/smoke_vgg16"),
    data="digits",
    prune_learning_rate=0.02,
    small_share=0.0,
    epochs=5,
    prune_epochs=5,
    batch_size=32,
    average_last=0.0,
    pruning_steps=10,
)
PRESETS = {
    "smoke": cli.Preset(SMOKE, "embedded digits, width 0.1875; 2 minutes on 2 cores"),
    "quick": cli.Preset(QUICK, "CIFAR-10, width 0.1875; 14 minutes on 2 cores"),
    "full": cli.Preset(FULL, "CIFAR-10, width 1.0; 320 epochs, for an accelerator"),
}


def run(config: Config = QUICK) -> dict[str, Any]:
    """Runs the experiment; the report is returned and written to `config.workdir`."""
    return pipeline.run(config, VGG16, EXPECTED)


if __name__ == "__main__":
    sys.exit(pipeline.main(run, PRESETS))
