"""Compacted networks against their dense originals: multiply-adds and wall-clock time.

The least important channels of random networks go until a quarter of the multiply-adds
is left, evenly over the layers. Once as they come, once with every width rounded up to
a multiple of 16, which vector units like.
"""

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.benchmarks.figure import Figure, alternate, of, ratio, single
from experiments.models.mobilenet import MobileNetV1
from experiments.models.vgg import vgg16_bn

TIMES = 3.9
"""Fewer multiply-adds: what Zeng, Chen and Zeng (2019) report for MobileNet."""


def run(short: bool) -> list[Figure]:
    """MobileNetV1 and VGG-16 with batch norm on 32×32 images, batch 1 and 128."""
    width, batches, turns = (0.25, (1, 2), 2) if short else (1.0, (1, 128), 11)
    networks = {"MobileNet": MobileNetV1(width=width), "VGG-16": vgg16_bn(width=width)}
    return [
        figure
        for name, model in networks.items()
        for figure in _network(name, model, batches, turns)
    ]


def _network(name: str, model, batches: tuple[int, ...], turns: int) -> list[Figure]:
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(max(batches), 32, 32, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    coupling = jp.trace_coupling(model.apply, variables, images[:1])
    full = coupling.macs(np.ones(coupling.size + 1, bool))
    figures = []
    for multiple in (1, 16):
        plan = jp.make_plan(
            coupling,
            variables,
            score=jp.importance.magnitude,
            normalize="rank",
            macs=full / TIMES,
            multiple_of=multiple,
        )
        fewer = full / coupling.macs(plan.to_keep(coupling))
        label = name if multiple == 1 else f"{name}, widths ×{multiple}"
        figures.append(single(f"{label}: fewer MACs", fewer, "×"))
        for batch in batches:
            x = images[:batch]
            small = plan.apply(variables)
            dense_fn = jax.jit(model.apply)
            small_fn = jax.jit(jp.shrink(model.apply, plan))
            seconds = alternate(
                {
                    "dense": lambda f=dense_fn, x=x: f(variables, x),
                    "small": lambda f=small_fn, v=small, x=x: f(v, x),
                },
                turns,
            )
            target = {"least": 0.85 * fewer} if batch == 128 else {}
            where = f"{label}, batch {batch}"
            figures += [
                of(f"{where}: dense", seconds["dense"], "ms", 1e3),
                of(f"{where}: compact", seconds["small"], "ms", 1e3),
                ratio(f"{where}: faster", seconds["dense"], seconds["small"], **target),
            ]
    return figures
