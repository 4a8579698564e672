"""Training steps on this device, beside PyTorch's where it is installed.

Turns of JAX and PyTorch alternate, so that what else the machine does falls on both.
PyTorch runs once with the malloc that the experiments run with, which makes it faster
too, and once with its own.
"""

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn

from experiments.benchmarks.figure import Figure, of, ratio
from experiments.benchmarks.steps import training_step
from experiments.models.mobilenet import MobileNetV1
from experiments.models.vgg import vgg16_bn


class _Job(NamedTuple):
    """One network; `times` is how much faster than PyTorch it should be."""

    name: str
    model: nn.Module
    torch_name: str
    steps: int
    times: float


def run(short: bool, torch_python: Path | None) -> list[Figure]:
    """Images per second of whole steps: batch 128, SGD with momentum, float32.

    Raises:
      ValueError: `torch_python` cannot run PyTorch.
    """
    batch, width, turns = (4, 0.125, 1) if short else (128, 1.0, 3)
    jobs = [
        _Job("MobileNet", MobileNetV1(width=width), "mobilenet", 5, 1.3),
        _Job("VGG-16", vgg16_bn(width=width), "vgg16", 2, 1.0),
    ]
    return [f for job in jobs for f in _network(job, batch, turns, torch_python)]


def _network(job: _Job, batch: int, turns: int, python: Path | None) -> list[Figure]:
    step = training_step(job.model, optax.sgd(0.01, momentum=0.9), batch)
    own = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    ours, theirs, untuned = [], [], []
    for _ in range(turns):
        ours.append(batch / _turn(step, job.steps))
        if python:
            theirs.append(batch / _torch_turn(python, job, batch, os.environ))
            untuned.append(batch / _torch_turn(python, job, batch, own))
    figures = [of(f"{job.name}: JAX", ours, "images/s")]
    if python:
        figures += [
            of(f"{job.name}: PyTorch", theirs, "images/s"),
            of(f"{job.name}: PyTorch, its own malloc", untuned, "images/s"),
            ratio(f"{job.name}: JAX to PyTorch", ours, theirs, least=job.times),
        ]
    return figures


def _turn(step, steps: int) -> float:
    """The median seconds of a step."""
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        jax.block_until_ready(step())
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[2:]))


def _torch_turn(
    python: Path, job: _Job, batch: int, environment: Mapping[str, str]
) -> float:
    """The median seconds of a step by PyTorch."""
    script = Path(__file__).with_name("torch_step.py")
    command = [python, script, job.torch_name, str(batch), str(job.steps)]
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(
            f"{python} cannot run PyTorch ({error}); make an environment that can: "
            "python -m venv torch && torch/bin/pip install torch numpy"
        ) from None
    return float(np.median(json.loads(done.stdout)))
