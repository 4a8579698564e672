"""What a compression run is made of; every experiment presets these fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Method = Literal["dense", "stepwise", "channels"]


@dataclass(frozen=True)
class Config:
    """From a dense network to two compressed ones, with proof and a report."""

    workdir: Path = Path("runs/run")
    """Folder of the run; started again with the same folder, it goes on."""
    data: str = "cifar10"
    """Data set: cifar10, cifar100, svhn_cropped, fashion_mnist, mnist or digits."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets; $TFDS_DATA_DIR or TFDS's own by default."""
    methods: tuple[Method, ...] = ("dense", "stepwise", "channels")
    """What to run; the dense network is trained in any case, the others start there."""
    start: Literal["dense", "scratch"] = "dense"
    """Where pruning starts: from the trained dense network, or from new weights."""
    seed: int = 0
    """Seed of the weights, and of the order and augmentation of the images."""

    width: float = 1.0
    """Multiplies the number of channels of every layer."""
    aux_at: tuple[int, ...] = ()
    """Blocks that get an auxiliary classifier, counted from 1; dropped at the end."""

    epochs: int = 160
    """Passes over the training images for the dense network."""
    prune_epochs: int = 80
    """Further passes, in which the dense network trains on and others are pruned."""
    batch_size: int = 128
    """Images per update."""
    learning_rate: float = 0.3
    """Peak learning rate of the dense network (one-cycle, SGD-Nesterov 0.9)."""
    prune_learning_rate: float = 0.1
    """Peak learning rate of the further passes."""
    weight_decay: float = 5e-4
    """L2 decay of kernels; batch norm and biases have none."""
    label_smoothing: float = 0.1
    """Share of the target spread over all classes, in [0, 1)."""
    small_share: float = 0.0
    """Share of the passes of each training, at its start, on 24 × 24 pixels."""
    average_last: float = 0.2
    """Share of each training, at its end, over which weights are averaged."""

    ratio: float = 5.6
    """Stepwise: dense parameters per non-zero parameter of the pruned network."""
    curvature: float = 10.0
    """Stepwise: a in s_k = s · ln(1 + a·k/K) / ln(1 + a)."""
    pruning_steps: int = 20
    """Stepwise: K, the number of pruning steps."""
    hysteresis: float = 0.1
    """Stepwise: half-width of the band around the threshold in which masks stay."""

    params_ratio: float = 26.9
    """Channels: dense parameters per parameter of the compact network."""
    macs_ratio: float = 3.9
    """Channels: dense multiply-adds per multiply-add of the compact network."""
    l1_scale: float = 1e-4
    """Channels: L1 penalty of the batch-norm scales γ."""
    l1_shift: float = 1e-4
    """Channels: L1 penalty of the batch-norm shifts β."""
    sparsify_epochs: int = 40
    """Channels: how many of the further passes run FISTA; the rest fine-tunes."""

    def __post_init__(self):
        for field in ("ratio", "params_ratio", "macs_ratio"):
            if (value := getattr(self, field)) < 1:
                raise ValueError(f"{field} must be 1 or more, got {value}")
        for field in ("l1_scale", "l1_shift", "width", "weight_decay"):
            if (value := getattr(self, field)) < 0:
                raise ValueError(f"{field} must be 0 or more, got {value}")
        for field in ("small_share", "average_last"):
            if not 0 <= (value := getattr(self, field)) <= 1:
                raise ValueError(f"{field} must be in [0, 1], got {value}")
        if "channels" in self.methods and not (
            0 < self.sparsify_epochs < self.prune_epochs
        ):
            raise ValueError(
                f"sparsify_epochs must lie between 0 and prune_epochs "
                f"({self.prune_epochs}), got {self.sparsify_epochs}"
            )
