"""The papers' networks on ImageNet or Imagenette, images streamed from JPEG files.

python -m experiments.imagenet                              # Imagenette on a CPU
python -m experiments.imagenet --network vgg16 --preset full
python -m experiments.imagenet --preset smoke               # made-up images, minutes
python -m experiments.imagenet --help

ImageNet has to be downloaded by hand, after registration; started without it, the
program says how to prepare it.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments import cli, data, pipeline, ranges
from experiments.config import Config
from experiments.experiment import Architecture
from experiments.models import vgg
from experiments.models.alexnet import alexnet_imagenet
from experiments.models.mobilenet import MobileNetV1
from experiments.models.zfnet import zfnet_imagenet
from experiments.reported import active_stepwise_pruning
from jaxprune import paths


class Kind(NamedTuple):
    """A network, and what suits it.

    Attributes:
      architecture: the layout for 224×224 images.
      ratio: what the paper reports for stepwise pruning.
      batch_norm: whether its channels can be pruned, and how fast it may learn.
    """

    architecture: Architecture
    ratio: float
    batch_norm: bool


def _chain(name: str, build: Callable, depth: int, ratio: float, norm: bool) -> Kind:
    return Kind(Architecture(name, build, depth, paths.kernels), ratio, norm)


NETWORKS = {
    "mobilenet": Kind(
        Architecture(
            name="MobileNetV1",
            build=MobileNetV1.imagenet,
            depth=13,
            prunable=paths.matching(r"Pointwise_\d+/kernel|^Dense_0/kernel"),
        ),
        ratio=5.6,
        batch_norm=True,
    ),
    "alexnet": _chain("AlexNet", alexnet_imagenet, 5, 11.7, False),
    "vgg16": _chain("VGG-16", partial(vgg.imagenet, vgg.vgg16), 13, 16.6, False),
    "vgg16_bn": _chain(
        "VGG-16 with batch norm", partial(vgg.imagenet, vgg.vgg16_bn), 13, 16.6, True
    ),
    "zfnet": _chain("ZFNet", zfnet_imagenet, 5, 15.0, False),
}


@dataclass(frozen=True)
class ImagenetConfig(Config):
    """From a dense network to compressed ones, on images streamed from files."""

    data: str = "imagenet2012"
    """Data set: imagenet2012, imagenette, or mock_imagenet, which is made up."""
    network: Literal["mobilenet", "alexnet", "vgg16", "vgg16_bn", "zfnet"] = "mobilenet"
    """The network, in its layout for 224×224 images."""
    image_size: int = 224
    """Height and width of the images, in pixels."""
    workers: int | None = None
    """Processes that decode images; 0: none beside the program itself; one for each
    CPU core, at most 16, if not given."""

    def __post_init__(self):
        super().__post_init__()
        ranges.at_least(1, self, "image_size")
        if self.workers is not None:
            ranges.at_least(0, self, "workers")


def presets(network: str) -> dict[str, cli.Preset]:
    """What suits a network; the sizes of training are our choice."""
    kind = NETWORKS[network]
    full = ImagenetConfig(
        workdir=Path(f"runs/imagenet_{network}"),
        network=network,
        methods=("dense", "stepwise", "channels")[: 3 if kind.batch_norm else 2],
        aux_at=(5, 11) if kind.batch_norm else (),
        ratio=kind.ratio,
        floor=0.02,
        epochs=60,
        prune_epochs=30,
        sparsify_epochs=15,
        batch_size=256,
        learning_rate=0.2 if kind.batch_norm else 0.02,
        prune_learning_rate=0.05 if kind.batch_norm else 0.01,
        weight_decay=4e-5 if network == "mobilenet" else 1e-4,
    )
    quick = replace(
        full,
        workdir=Path(f"runs/imagenette_{network}"),
        data="imagenette",
        image_size=128,
        width=0.5,
        epochs=10,
        prune_epochs=10,
        sparsify_epochs=5,
        batch_size=64,
    )
    smoke = replace(
        quick,
        workdir=Path(f"runs/smoke_imagenet_{network}"),
        data="mock_imagenet",
        image_size=64,
        width=0.125,
        epochs=3,
        prune_epochs=4,
        sparsify_epochs=2,
        batch_size=32,
        average_last=0.0,
        pruning_steps=5,
        ratio=4.0,
        params_ratio=4.0,
        macs_ratio=2.0,
        l1_scale=8e-3,
        l1_shift=8e-3,
    )
    return {
        "smoke": cli.Preset(smoke, "512 made-up JPEG files of 64 px, width 0.125"),
        "quick": cli.Preset(quick, "Imagenette at 128 px, width 0.5; hours on a CPU"),
        "full": cli.Preset(full, "ImageNet at 224 px; 90 epochs, for accelerators"),
    }


def run(config: ImagenetConfig) -> dict[str, Any]:
    """Runs the experiment; the report is returned and written to `config.workdir`."""
    dataset = data.load(
        config.data, config.data_dir, size=config.image_size, workers=config.workers
    )
    kind = NETWORKS[config.network]
    reported = (active_stepwise_pruning(params=kind.ratio),)
    return pipeline.run(config, kind.architecture, reported, dataset=dataset)


def main() -> int:
    """The command line; the presets are those of the network that is named."""
    network = cli.peek("--network", NETWORKS, sys.argv[1:])
    return pipeline.main(run, presets(network or "mobilenet"))


if __name__ == "__main__":
    sys.exit(main())
