"""A small convolutional network on embedded digits: comparisons in minutes.

python -m experiments.comparison.convnet
"""

import sys
from pathlib import Path
from typing import Any

from experiments import cli, pipeline, runtime
from experiments.config import Config
from experiments.experiment import Architecture
from experiments.models.chain import Chain, Conv, Pool
from jaxprune import paths

LAYERS = (
    Conv(16, stride=2),
    Conv(32),
    Pool(),
    Conv(64),
    Conv(64),
    Pool(),
    Conv(128),
)


def build(**fields: Any) -> Chain:
    """Five convolutions with batch norm; `fields` are those of `Chain`."""
    return Chain(LAYERS, norm=True, **fields)


CONVNET = Architecture(name="ConvNet", build=build, depth=5, prunable=paths.kernels)

SMOKE = Config(
    workdir=Path("runs/convnet"),
    data="digits",
    width=0.5,
    aux_at=(2, 4),
    epochs=5,
    prune_epochs=5,
    sparsify_epochs=3,
    prune_learning_rate=0.2,
    batch_size=32,
    average_last=0.0,
    pruning_steps=10,
    ratio=16.0,
    l1_scale=8e-3,
    l1_shift=8e-3,
)
PRESETS = {"smoke": cli.Preset(SMOKE, "embedded digits; a minute on 2 cores")}


def run(config: Config = SMOKE) -> dict[str, Any]:
    """Runs the experiment; the report is returned and written to `config.workdir`."""
    return pipeline.run(config, CONVNET)


def main() -> int:
    """The command line."""
    runtime.configure()
    cli.show_log()
    return cli.main(run, PRESETS, lambda: "smoke")


if __name__ == "__main__":
    sys.exit(main())
