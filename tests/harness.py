"""A tiny network and data set that train in a moment, for the harness's tests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.networks import Network
from experiments.train import Recipe

CLASSES = 3
RECIPE = Recipe(epochs=3, batch_size=16, crop=1, log_every=2, average_last=0.5)


@dataclasses.dataclass(frozen=True)
class Images:
    """As much of `experiments.data.Dataset` as the harness asks for."""

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def images(train: int = 70, test: int = 37) -> Images:
    """Noise whose brightness tells the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, train + test).astype(np.int32)
    noise = rng.integers(0, 120, (train + test, 6, 6, 1))
    pixels = (noise + 60 * labels[:, None, None, None]).astype(np.uint8)
    return Images(
        "digits",
        pixels[:train],
        labels[:train],
        pixels[train:],
        labels[train:],
        np.float32([0.4]),
        np.float32([0.2]),
    )


def _forward(params, mean, x):
    hidden = jnp.mean(x, axis=(1, 2)) - mean
    return hidden @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


def _train(variables, x):
    mean = jnp.mean(x, axis=(0, 1, 2))
    old = variables["batch_stats"]["mean"]
    new = {"batch_stats": {"mean": 0.9 * old + 0.1 * mean}}
    return _forward(variables["params"], mean, x), new


def _predict(variables, x):
    return _forward(variables["params"], variables["batch_stats"]["mean"], x)


NETWORK = Network(_train, _predict)


def variables():
    kernel = jnp.linspace(-0.1, 0.1, CLASSES)[None]
    params = {"Dense_0": {"kernel": kernel, "bias": jnp.zeros(CLASSES)}}
    return {"params": params, "batch_stats": {"mean": jnp.zeros(1)}}


def sgd():
    return optax.sgd(0.5, momentum=0.9)


def equal(a, b) -> bool:
    """Whether two trees are the same bit for bit."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)
