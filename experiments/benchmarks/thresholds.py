"""The exact k-th magnitude of a whole network, against one pass and against a sort.

VGG-16 (138 M weights, ImageNet layout) and MobileNetV1 (3.2 M), in their real shapes.
Each row of a kernel has a scale of its own, as in trained networks, so that no part is
a fair sample of the whole.
"""

import math
import time

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.benchmarks.figure import Figure, alternate, of, ratio, single
from experiments.models.mobilenet import MobileNetV1
from experiments.models.vgg import imagenet, vgg16


@jax.jit
def one_pass(leaves):
    """Σ|w|: what reading all weights costs."""
    return sum(jnp.sum(jnp.abs(x)) for x in leaves)


def by_sorting(leaves, k):
    """The k-th of all weights joined and sorted."""
    return jnp.sort(jnp.concatenate([x.ravel() for x in leaves]))[k]


def run(short: bool) -> list[Figure]:
    """Both networks; the short version takes them at an eighth of their width."""
    width, turns = (0.125, 2) if short else (1.0, 9)
    vgg, mobilenet = imagenet(vgg16, width=width), MobileNetV1(width=width)
    return [
        *_network("VGG-16", kernels(vgg, 224), 0.94, turns, targets=not short),
        *_network("MobileNet", leaves(mobilenet, 32), 0.82, turns, targets=False),
    ]


def leaves(model, px: int) -> list[tuple[int, ...]]:
    """Shapes of all parameters."""
    image = jax.ShapeDtypeStruct((1, px, px, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    return [x.shape for x in jax.tree.leaves(variables["params"])]


def kernels(model, px: int) -> list[tuple[int, ...]]:
    """Shapes of the weights alone."""
    return [shape for shape in leaves(model, px) if len(shape) > 1]


def magnitudes(shapes: list[tuple[int, ...]], seed: int = 0) -> list[jax.Array]:
    """|w| of random weights, He's scale times one of each row."""
    rng = np.random.default_rng(seed)

    def one(shape):
        x = np.abs(rng.standard_normal(shape, np.float32))
        if len(shape) > 1:
            x *= np.exp(0.5 * rng.standard_normal((*shape[:-1], 1), np.float32))
            x *= np.float32(math.sqrt(2 / math.prod(shape[:-1])))
        return jnp.asarray(x)

    return [one(shape) for shape in shapes]


def _network(name, shapes, sparsity, turns, *, targets) -> list[Figure]:
    scores = magnitudes(shapes)
    size = sum(x.size for x in scores)
    k = jnp.int32(sparsity * size)
    kth = jax.jit(jp.thresholds.kth_smallest).lower(scores, k).compile()
    candidates = {"pass": lambda: one_pass(scores), "kth": lambda: kth(scores, k)}
    seconds = alternate(candidates, turns)
    sort = _sorted_seconds(name, scores, k, float(kth(scores, k)))
    extra = kth.memory_analysis().temp_size_in_bytes / (4 * size)
    name = f"{name}, {size / 1e6:.1f} M in {len(scores)} leaves"
    limits = [{"most": 8}, {"least": 20}, {"most": 10}] if targets else [{}, {}, {}]
    return [
        of(f"{name}: Σ|w|", seconds["pass"], "ms", 1e3),
        of(f"{name}: k-th magnitude", seconds["kth"], "ms", 1e3),
        single(f"{name}: joined and sorted", 1e3 * sort, "ms"),
        ratio(f"{name}: k-th to Σ|w|", seconds["kth"], seconds["pass"], **limits[0]),
        of(
            f"{name}: sort to k-th",
            [sort / s for s in seconds["kth"]],
            "×",
            **limits[1],
        ),
        single(f"{name}: extra memory of the weights", 100 * extra, "%", **limits[2]),
    ]


def _sorted_seconds(name: str, scores: list[jax.Array], k: jax.Array, kth: float):
    """Of a sort, once: it takes minutes, and has to give the same."""
    compiled = jax.jit(by_sorting).lower(scores, k).compile()
    start = time.perf_counter()
    found = float(compiled(scores, k))
    seconds = time.perf_counter() - start
    if found != kth:
        raise AssertionError(f"{name}: the threshold is {kth}, by sorting {found}")
    return seconds
