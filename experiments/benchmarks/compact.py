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


_ROUNDED = {"compact": 1, "compact to 16": 16}
"""Widths are multiples of these."""


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
    everything = coupling.macs(np.ones(coupling.size + 1, bool))
    networks, fewer, figures = {"dense": (jax.jit(model.apply), variables)}, {}, []
    for label, multiple in _ROUNDED.items():
        plan = jp.make_plan(
            coupling,
            variables,
            score=jp.importance.magnitude,
            normalize="rank",
            macs=everything / TIMES,
            multiple_of=multiple,
        )
        small_fn = jax.jit(jp.shrink(model.apply, plan))
        networks[label] = small_fn, plan.apply(variables)
        fewer[label] = everything / coupling.macs(plan.to_keep(coupling))
        figures.append(single(f"{name} {label}: fewer MACs", fewer[label], "×"))
    for batch in batches:
        figures += _speeds(
            f"{name}, batch {batch}", networks, fewer, images[:batch], turns
        )
    return figures


def _speeds(where: str, networks: dict, fewer: dict, images, turns) -> list[Figure]:
    seconds = alternate(
        {
            label: lambda fn=fn, v=variables: fn(v, images)
            for label, (fn, variables) in networks.items()
        },
        turns,
    )
    figures = [of(f"{where}: {label}", s, "ms", 1e3) for label, s in seconds.items()]
    for label, times in fewer.items():
        target = {"least": 0.85 * times} if len(images) == 128 else {}
        what = f"{where}: {label}, faster than dense"
        figures.append(ratio(what, seconds["dense"], seconds[label], **target))
    what = f"{where}: compact to compact to 16"
    return [*figures, ratio(what, *(seconds[label] for label in _ROUNDED))]
