"""The runs a comparison is made of: which there are, and the command of each."""

import dataclasses
import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from tyro.conf import Suppress

from experiments.comparison.methods import METHODS
from experiments.config import Config, Method

NETWORKS = {
    "convnet": "experiments.comparison.convnet",
    "mobilenet": "experiments.cifar10_mobilenet",
    "vgg16": "experiments.cifar10_vgg16",
    "alexnet": "experiments.cifar10_alexnet",
    "zfnet": "experiments.cifar10_zfnet",
    "vgg19_bn": "experiments.cifar10_vgg19_bn",
}
"""Where the experiment on each network is."""


@dataclasses.dataclass(frozen=True)
class Shared(Config):
    """A config without what is each run's own."""

    workdir: Suppress[Path] = Path()
    methods: Suppress[tuple[Method, ...]] = ("dense",)
    start: Suppress[Literal["dense", "scratch"]] = "dense"
    start_from: Suppress[Path | None] = None
    seed: Suppress[int] = 0
    ratio: Suppress[float] = 1.0
    params_ratio: Suppress[float] = 1.0
    macs_ratio: Suppress[float] = 1.0

    @classmethod
    def of(cls, config: Config) -> Self:
        """What other runs can share of a run's config."""
        names = {field.name for field in dataclasses.fields(Config)}
        shared = names - set(cls.__annotations__)
        return cls(**{name: getattr(config, name) for name in shared})


@dataclasses.dataclass(frozen=True)
class Job:
    """One run: a method at a ratio from a seed.

    Attributes:
      method: its name in `METHODS`.
      ratio: dense parameters per parameter that is left.
      config: of the run; its workdir is the run's own.
      after: the run whose dense network it starts from, if it does.
    """

    method: str
    ratio: float
    config: Config
    after: "Job | None" = None

    @property
    def name(self) -> str:
        return self.config.workdir.name

    @property
    def log(self) -> Path:
        """What the run prints."""
        return self.config.workdir.with_name(f"{self.name}.log")

    @property
    def finished(self) -> bool:
        """Whether the run has written its report."""
        return (self.config.workdir / "report.json").exists()

    @property
    def report(self) -> dict[str, Any]:
        """What the run has found; it has to be finished."""
        return json.loads((self.config.workdir / "report.json").read_text())

    @property
    def measured(self) -> dict[str, Any]:
        """Accuracy and costs of the network, from the report."""
        return self.report["networks"][self.config.methods[0]]

    @property
    def epochs(self) -> int:
        """Passes over the images: what the run costs."""
        return self.config.prune_epochs + (self.after is None) * self.config.epochs


def make_jobs(
    base: Shared,
    workdir: Path,
    methods: Iterable[str],
    ratios: Iterable[float],
    seeds: Iterable[int],
) -> list[Job]:
    """The runs, seed by seed; the dense network of a seed is its first.

    Args:
      base: what the runs share; the methods' fields go over it.
      workdir: folder in which each run gets its own.
      methods: names in `METHODS`; "dense" need not be among them.
      ratios: dense parameters per parameter that is left.
      seeds: of the weights and the order of the images.

    Raises:
      ValueError: a config that cannot be.
    """
    jobs = {}
    for seed in seeds:
        dense = _job(base, workdir, "dense", 1.0, seed)
        others = [
            _job(base, workdir, method, ratio, seed, dense)
            for ratio in ratios
            for method in methods
            if method != "dense"
        ]
        jobs |= {job.name: job for job in [dense, *others]}
    return list(jobs.values())


def _job(
    base: Shared,
    workdir: Path,
    method: str,
    ratio: float,
    seed: int,
    dense: Job | None = None,
) -> Job:
    fields = METHODS[method].fields
    name = f"{method}_{ratio:g}x_seed{seed}"
    if "ratio" in fields:
        ratio, name = fields["ratio"], f"{method}_seed{seed}"
    after = None if fields.get("start") == "scratch" else dense
    fields = {
        "ratio": ratio,
        "params_ratio": ratio,
        "macs_ratio": 1.0,
        "start_from": after and after.config.workdir,
        **fields,
        "workdir": workdir / "runs" / name,
        "seed": seed,
    }
    return Job(method, ratio, Config(**{**vars(base), **fields}), after)


def command(job: Job, network: str) -> list[str]:
    """What starts the run: the experiment on `network`, with the job's config.

    The same line, typed by hand, does the same.
    """
    experiment = importlib.import_module(NETWORKS[network])
    name, preset = next(iter(experiment.PRESETS.items()))
    given = arguments(preset.config, job.config)
    return [sys.executable, "-m", NETWORKS[network], "--preset", name, *given]


def arguments(old: Config, new: Config) -> list[str]:
    """The arguments of the command line that turn the one config into the other.

    Example:
      >>> arguments(Config(), Config(ratio=8.0, aux_at=(5, 11), recover=False))
      ['--aux-at', '5', '11', '--ratio', '8.0', '--no-recover']
    """
    given = []
    for field in dataclasses.fields(old):
        value, flag = getattr(new, field.name), field.name.replace("_", "-")
        if value == getattr(old, field.name):
            continue
        if isinstance(value, bool):
            given.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            given += [f"--{flag}", *map(str, values)]
    return given
