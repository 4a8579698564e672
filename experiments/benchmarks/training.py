"""A MobileNetV1 training step on this device, beside PyTorch's where it is installed.

Turns of JAX and PyTorch alternate, so that what else the machine does falls on both.
"""

import json
import subprocess
import time
from pathlib import Path

import jax
import optax

from experiments.benchmarks.figure import Figure, of, single
from experiments.benchmarks.steps import mobilenet_step


def run(short: bool, torch_python: Path | None) -> list[Figure]:
    """Images per second of whole steps: batch 128, SGD with momentum, float32.

    Raises:
      ValueError: `torch_python` cannot run PyTorch.
    """
    batch, width, steps, turns = (4, 0.125, 1, 1) if short else (128, 1.0, 5, 3)
    start = time.perf_counter()
    step = mobilenet_step(optax.sgd(0.01, momentum=0.9), batch, width)
    compiled = time.perf_counter() - start
    ours, theirs = [], []
    for _ in range(turns):
        ours += _turn(step, steps)
        if torch_python:
            theirs += _torch_turn(torch_python, batch, steps)
    figures = [
        single("compiling the step", compiled, "s"),
        of("JAX", [batch / s for s in ours], "images/s"),
    ]
    if theirs:
        speed = of("PyTorch", [batch / s for s in theirs], "images/s")
        ratio = figures[1].value / speed.value
        figures += [speed, single("JAX to PyTorch", ratio, "×", least=1.3)]
    return figures


def _turn(step, steps: int) -> list[float]:
    seconds = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        jax.block_until_ready(step())
        seconds.append(time.perf_counter() - start)
    return seconds[2:]


def _torch_turn(python: Path, batch: int, steps: int) -> list[float]:
    script = Path(__file__).with_name("torch_step.py")
    command = [python, script, str(batch), str(steps)]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ValueError(
            f"{python} cannot run PyTorch ({error}); make an environment that can: "
            "python -m venv torch && torch/bin/pip install torch numpy"
        ) from None
    return json.loads(done.stdout)
