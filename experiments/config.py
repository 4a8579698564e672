"""What a compression run is made of; every experiment presets these fields."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from experiments import ranges

Method = Literal["dense", "stepwise", "channels", "small"]


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
    """What to deliver: the dense network, trained on; the same one pruned weight by
    weight, or channel by channel; a small dense network of the size `params_ratio`."""
    start: Literal["dense", "scratch"] = "dense"
    """Where pruning starts: from the trained dense network, or from new weights."""
    start_from: Path | None = None
    """Folder of another run whose dense network to start from, instead of training one;
    it may have other auxiliary classifiers."""
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
    schedule: Literal["logarithmic", "cubic", "linear", "one_shot"] = "logarithmic"
    """Stepwise: how sparsity rises; one_shot prunes everything in the first step."""
    distribution: str = "global"
    """Stepwise: global (one threshold), leaf (the same share of each leaf), erk (more
    of large leaves), or n:m such as 2:4, which sets the ratio by itself."""
    floor: float = 0.0
    """Stepwise: share of each leaf that a global threshold has to leave, in [0, 1)."""
    score: Literal["magnitude", "layer_normalised", "random"] = "magnitude"
    """Stepwise: how much a weight matters."""
    recover: bool = True
    """Stepwise: whether pruned weights can come back."""
    regrow: Literal["none", "gradient", "random"] = "none"
    """Stepwise: constant sparsity instead, the smallest dropped and as many grown where
    the gradient is largest (RigL) or at random (SET)."""

    params_ratio: float = 26.9
    """Channels: dense parameters per parameter of the compact network."""
    macs_ratio: float = 3.9
    """Channels: dense multiply-adds per multiply-add of the compact network."""
    l1_scale: float = 1e-4
    """Channels: L1 penalty of the batch-norm scales γ."""
    l1_shift: float = 1e-4
    """Channels: L1 penalty of the batch-norm shifts β."""
    solver: Literal["fista", "ista", "subgradient"] = "fista"
    """Channels: how the L1 penalties are minimised; subgradient, by SGD, leaves no
    exact zeros, so that all channels that go are forced to zero."""
    sparsify_epochs: int = 40
    """Channels: how many of the further passes are penalised; the rest fine-tunes."""

    def __post_init__(self):
        self._check_choices()
        self._check_ranges()
        if self.start_from is not None and self.start == "scratch":
            raise ValueError(
                "start_from names a dense network to start from, start scratch asks "
                "for new weights: leave one of them out"
            )
        if "channels" in self.methods and not (
            0 < self.sparsify_epochs < self.prune_epochs
        ):
            raise ValueError(
                f"sparsify_epochs must lie between 0 and prune_epochs "
                f"({self.prune_epochs}), got {self.sparsify_epochs}"
            )

    @property
    def scope(self) -> str | tuple[int, int]:
        """`distribution` as `jaxprune.active_stepwise_pruning` takes it."""
        n_of_m = re.fullmatch(r"(\d+):(\d+)", self.distribution)
        return (int(n_of_m[1]), int(n_of_m[2])) if n_of_m else self.distribution

    def _check_ranges(self) -> None:
        ranges.at_least(1, self, "epochs", "prune_epochs", "batch_size")
        ranges.at_least(1, self, "pruning_steps", "ratio", "params_ratio", "macs_ratio")
        ranges.at_least(0, self, "seed", "width", "weight_decay")
        ranges.at_least(0, self, "l1_scale", "l1_shift")
        ranges.positive(self, "learning_rate", "prune_learning_rate", "curvature")
        ranges.share(self, "small_share", "average_last")
        ranges.part(self, "label_smoothing", "hysteresis", "floor")

    def _check_choices(self) -> None:
        for field, hint in get_type_hints(type(self)).items():
            value = getattr(self, field)
            if get_origin(hint) is Literal and value not in get_args(hint):
                names = ", ".join(get_args(hint))
                raise ValueError(f"{field} must be one of {names}, got {value!r}")
        if not self.methods or not set(self.methods) <= set(get_args(Method)):
            raise ValueError(
                f"methods must be some of {', '.join(get_args(Method))}, "
                f"got {self.methods}"
            )
        scopes = ("global", "leaf", "erk")
        if isinstance(self.scope, str) and self.scope not in scopes:
            raise ValueError(
                f"distribution must be {', '.join(scopes)} or n:m, "
                f"got {self.distribution!r}"
            )
