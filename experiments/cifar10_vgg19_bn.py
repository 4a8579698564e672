"""VGG-19 with batch norm on CIFAR-10, pruned channel by channel.

python -m experiments.cifar10_vgg19_bn                  # quick on a CPU
python -m experiments.cifar10_vgg19_bn --preset smoke   # embedded digits, minutes
python -m experiments.cifar10_vgg19_bn --help

As many parameters go as in Network Slimming. Nine tenths of them are in the last two
stages, with two fifths of the multiply-adds, so half of these can go along.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from experiments import cli, pipeline
from experiments.config import Config
from experiments.experiment import Architecture
from experiments.models.vgg import vgg19_bn
from experiments.reported import Reported
from jaxprune import paths

VGG19_BN = Architecture("VGG-19", vgg19_bn, depth=16, prunable=paths.kernels)
EXPECTED = (
    Reported("channels", "Network Slimming, Liu et al., 2017", params=8.9, points=0.01),
)

FULL = Config(
    workdir=Path("runs/cifar10_vgg19_bn"),
    methods=("dense", "channels"),
    params_ratio=8.9,
    macs_ratio=2.0,
    learning_rate=0.1,
    prune_learning_rate=0.05,
    aux_at=(8, 12),
)
QUICK = dataclasses.replace(
    FULL,
    width=0.1875,
    epochs=2,
    prune_epochs=2,
    sparsify_epochs=1,
    small_share=0.5,
    l1_scale=8e-3,
    l1_shift=8e-3,
)
SMOKE = dataclasses.replace(
    QUICK,
    workdir=Path("runs/smoke_vgg19_bn"),
    data="digits",
    epochs=5,
    prune_epochs=5,
    sparsify_epochs=3,
    small_share=0.0,
    batch_size=32,
    average_last=0.0,
)
PRESETS = {
    "smoke": cli.Preset(SMOKE, "embedded digits, width 0.1875; 2 minutes on 2 cores"),
    "quick": cli.Preset(QUICK, "CIFAR-10, width 0.1875; 10 minutes on 2 cores"),
    "full": cli.Preset(FULL, "CIFAR-10, width 1.0; 320 epochs, for an accelerator"),
}


def run(config: Config = QUICK) -> dict[str, Any]:
    """Runs the experiment; the report is returned and written to `config.workdir`."""
    return pipeline.run(config, VGG19_BN, EXPECTED)


if __name__ == "__main__":
    sys.exit(pipeline.main(run, PRESETS))
