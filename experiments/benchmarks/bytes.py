"""Files of weight-pruned networks, against their dense float32 and against the bound.

The bound is the kept values plus the entropy of each leaf's mask.
"""

import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.benchmarks.figure import Figure, single
from experiments.models.mobilenet import MobileNetV1
from experiments.models.vgg import vgg16


def run(short: bool) -> list[Figure]:
    """MobileNetV1 at 5.6 × and VGG-16 (CIFAR-10 layout) at 16.6 ×, random weights."""
    width, limit = (0.25, {}) if short else (1.0, {"most": 5})
    return [
        *_network("MobileNet", MobileNetV1(width=width), 5.6, limit),
        *_network("VGG-16", vgg16(width=width), 16.6, limit),
    ]


def _network(name: str, model, times: float, limit: dict[str, float]) -> list[Figure]:
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)
    rng = np.random.default_rng(0)
    dense = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), shapes)
    params = dense["params"]
    pruned = dense | {"params": _pruned(params, jp.parameters(params) / times)}
    with tempfile.TemporaryDirectory() as folder:
        full = jp.artifact.save(Path(folder) / "dense.safetensors", dense)
        small = jp.artifact.save(Path(folder) / "pruned.safetensors", pruned)
    over = 100 * (small / jp.artifact.bound(pruned) - 1)
    name = f"{name}, {times} × fewer weights"
    return [
        single(f"{name}: dense", full / 2**20, "MiB"),
        single(f"{name}: pruned", small / 2**20, "MiB"),
        single(f"{name}: dense to pruned", full / small, "×"),
        single(f"{name}: above the bound", over, "%", **limit),
    ]


def _pruned(params, kept: float):
    """All but the smallest kernel weights, so that `kept` parameters are left."""
    flat = jax.tree.leaves_with_path(params)
    kernels = {jp.paths.name(p): abs(x) for p, x in flat if x.ndim > 1}
    masks = jp.masks.all_but_smallest(kernels, round(jp.parameters(params) - kept))
    return jax.tree.map_with_path(
        lambda p, x: np.where(masks.get(jp.paths.name(p), True), x, 0).astype(x.dtype),
        params,
    )
