"""A MobileNetV1 training step on this device, beside PyTorch's where it is installed.

    python -m experiments.benchmarks.training --torch-python PATH

Turns of JAX and PyTorch alternate, so that what else the machine does falls on both.
"""

import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

from experiments import runtime
from experiments.models.mobilenet import MobileNetV1


@dataclass(frozen=True)
class Config:
    """Images per second of whole training steps (SGD with momentum, float32).

    Attributes:
      batch: images a step.
      steps: steps a turn, beside two to warm up.
      turns: turns of each framework.
      width: the network's width; PyTorch's is always 1.
      torch_python: an interpreter that has PyTorch; None leaves it out.
    """

    batch: int = 128
    steps: int = 5
    turns: int = 3
    width: float = 1.0
    torch_python: Path | None = None


def run(config: Config) -> dict[str, Any]:
    """The medians in images per second, their spread, and the compile time."""
    if config.torch_python and config.width != 1:
        raise ValueError(f"PyTorch is compared at width 1, got {config.width}")
    start = time.perf_counter()
    turn = _jax_turn(config)
    compiled = time.perf_counter() - start
    seconds: dict[str, list[float]] = {"jax": []}
    for _ in range(config.turns):
        seconds["jax"] += turn()
        if config.torch_python:
            seconds.setdefault("torch", []).extend(_torch_turn(config))
    result = {name: _speed(config.batch, s) for name, s in seconds.items()}
    result |= {
        "device": jax.devices()[0].device_kind,
        "jax_version": jax.__version__,
        "compile_seconds": compiled,
    }
    if config.torch_python:
        result["ratio"] = result["jax"]["median"] / result["torch"]["median"]
    return result


def _speed(batch: int, seconds: list[float]) -> dict[str, float]:
    speeds = [batch / s for s in seconds]
    return {
        "median": statistics.median(speeds),
        "least": min(speeds),
        "most": max(speeds),
    }


def _jax_turn(config: Config):
    model, tx = MobileNetV1(width=config.width), optax.sgd(0.01, momentum=0.9)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(config.batch, 32, 32, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, config.batch))
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])

    def loss(params, stats):
        logits, new = model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), new["batch_stats"]

    def step(params, stats, opt_state):
        grads, stats = jax.grad(loss, has_aux=True)(params, stats)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state

    params = variables["params"]
    state = params, variables["batch_stats"], tx.init(params)
    compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*state).compile()

    def turn() -> list[float]:
        nonlocal state
        seconds = []
        for _ in range(config.steps + 2):
            start = time.perf_counter()
            state = jax.block_until_ready(compiled(*state))
            seconds.append(time.perf_counter() - start)
        return seconds[2:]

    return turn


def _torch_turn(config: Config) -> list[float]:
    script = Path(__file__).with_name("torch_step.py")
    command = [config.torch_python, script, str(config.batch), str(config.steps)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def main() -> int:
    """The command line."""
    runtime.configure()
    print(json.dumps(run(tyro.cli(Config)), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
