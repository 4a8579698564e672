"""How much memory pruning takes: one training step with a mask update, on a CPU.

python -m experiments.memory                        # VGG-16 at ImageNet size, batch 8
python -m experiments.memory --network mobilenet
"""

import concurrent.futures
import json
import multiprocessing
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp
from experiments import cli, ranges, runtime
from experiments.imagenet import NETWORKS
from experiments.losses import classification
from experiments.networks import initialise, linen
from experiments.optimizers import sgd

GIB = 2**30


@dataclass(frozen=True)
class Config:
    """Peak memory of a step of SGD-Nesterov with active stepwise pruning."""

    network: Literal["mobilenet", "alexnet", "vgg16", "vgg16_bn", "zfnet"] = "vgg16"
    """The network, in its layout for 224×224 images and 1000 classes."""
    width: float = 1.0
    """Multiplies the number of channels of every layer."""
    image_size: int = 224
    """Height and width of the images, in pixels."""
    batch_size: int = 8
    """Images of the step."""

    def __post_init__(self):
        ranges.at_least(0, self, "width")
        ranges.at_least(1, self, "image_size", "batch_size")


def run(config: Config) -> dict[str, Any]:
    """Measures in a fresh process.

    Returns:
      "parameters", and in GiB: "weights"; "optimizer" (momentum, dormant weights,
      masks); "temporaries" of the compiled step, gradients included; "program", what
      the process holds before there is any weight; "peak", the most that the process
      has held, weights being made included.
    """
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(measure, config).result()


def measure(config: Config) -> dict[str, Any]:
    """The same, in this process, whose own past then counts as well."""
    jax.config.update("jax_platforms", "cpu")
    jax.devices()
    program = peak()
    kind = NETWORKS[config.network]
    model = kind.architecture.build(classes=1000, width=config.width, aux_at=())
    network, loss = linen(model), classification()
    link = jp.active_stepwise_pruning(
        jp.schedules.logarithmic(1 - 1 / kind.ratio, curvature=10, steps=1),
        every=1,
        prunable=kind.architecture.prunable,
    )
    tx = optax.chain(sgd(0.01), link)

    def step(variables, opt_state, images, labels):
        params, rest = variables["params"], {**variables}
        rest.pop("params")

        def objective(params):
            outputs, new = network.train({"params": params, **rest}, images)
            return loss(outputs, labels), new

        grads, new = jax.grad(objective, has_aux=True)(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        return {"params": optax.apply_updates(params, updates), **new}, opt_state

    shape = (config.batch_size, config.image_size, config.image_size, 3)
    images = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    labels = jnp.arange(config.batch_size)
    variables = initialise(model, jax.random.key(0), images[:1])
    opt_state = jax.jit(tx.init)(variables["params"])
    sizes = {"weights": _bytes(variables), "optimizer": _bytes(opt_state)}
    started = peak()
    compiled = (
        jax.jit(step, donate_argnums=(0, 1))
        .lower(variables, opt_state, images, labels)
        .compile()
    )
    sizes["temporaries"] = compiled.memory_analysis().temp_size_in_bytes
    variables, opt_state = compiled(variables, opt_state, images, labels)
    pruned = float(jp.sparsity(opt_state))
    sizes |= {"program": program, "peak_making_weights": started, "peak": peak()}
    return {
        "network": kind.architecture.name,
        "parameters": jp.parameters(variables["params"]),
        "sparsity": pruned,
        "gib": {name: size / GIB for name, size in sizes.items()},
        "malloc": os.environ.get("GLIBC_TUNABLES", "default"),
        "jax": jax.__version__,
    }


def peak() -> int:
    """The most memory that this process has held so far, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (found,) = (line for line in lines if line.startswith("VmHWM:"))
    return int(found.split()[1]) * 1024


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def main() -> int:
    """The command line."""
    runtime.configure()
    presets = {"all": cli.Preset(Config(), "a minute or two on 2 cores")}
    return cli.main(_show, presets, lambda: "all")


def _show(config: Config) -> None:
    print(json.dumps(run(config), indent=2))


if __name__ == "__main__":
    sys.exit(main())
