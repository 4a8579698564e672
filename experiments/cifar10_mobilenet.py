"""MobileNetV1 on CIFAR-10, compressed twice: weight by weight, channel by channel.

python -m experiments.cifar10_mobilenet                  # quick on a CPU
python -m experiments.cifar10_mobilenet --preset smoke   # embedded digits, minutes
python -m experiments.cifar10_mobilenet --help
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from experiments import cli, pipeline
from experiments.config import Config
from experiments.experiment import Architecture
from experiments.models.mobilenet import MobileNetV1
from experiments.reported import Reported, active_stepwise_pruning
from jaxprune import paths

MOBILENET = Architecture(
    name="MobileNetV1",
    build=MobileNetV1,
    depth=13,
    prunable=paths.matching(r"Pointwise_\d+/kernel|^Dense_0/kernel"),
)
EXPECTED = (
    active_stepwise_pruning(params=5.6),
    Reported("channels", "Zeng et al., 2019", params=26.9, macs=3.9, points=-0.04),
)

FULL = Config(workdir=Path("runs/cifar10_mobilenet"), aux_at=(5, 11))
QUICK = dataclasses.replace(
    FULL,
    width=0.5,
    epochs=4,
    prune_epochs=6,
    sparsify_epochs=2,
    small_share=0.6,
    l1_scale=4e-3,
    l1_shift=4e-3,
)
SMOKE = dataclasses.replace(
    QUICK,
    workdir=Path("runs/smoke"),
    data="digits",
    width=0.25,
    epochs=5,
    prune_epochs=12,
    sparsify_epochs=4,
    prune_learning_rate=0.3,
    small_share=0.0,
    batch_size=32,
    average_last=0.0,
    pruning_steps=10,
    ratio=4.0,
    params_ratio=5.0,
    macs_ratio=2.5,
    l1_scale=8e-3,
    l1_shift=8e-3,
)
PRESETS = {
    "smoke": cli.Preset(SMOKE, "embedded digits, width 0.25; 4 minutes on 2 cores"),
    "quick": cli.Preset(QUICK, "CIFAR-10, width 0.5; 40 minutes on 2 cores"),
    "full": cli.Preset(FULL, "CIFAR-10, width 1.0; 400 epochs, for an accelerator"),
}


def run(config: Config = QUICK) -> dict[str, Any]:
    """Runs the experiment; the report is returned and written to `config.workdir`."""
    return pipeline.run(config, MOBILENET, EXPECTED)


if __name__ == "__main__":
    sys.exit(pipeline.main(run, PRESETS))
