"""Accuracy on a test set, and batch statistics estimated anew."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.augment import Normalisation, normalise
from experiments.networks import Network, Variables, statistics
from experiments.step import Examples


def make_evaluate(
    predict: Callable[[Variables, Any], Any],
    normalisation: Normalisation,
    *,
    batch_size: int = 500,
) -> Callable[[Variables, Examples], dict[str, float]]:
    """`evaluate(variables, examples) -> {"loss", "accuracy"}` over all examples.

    Compiled once; one wait for the device at the end, none between batches.
    """

    @partial(jax.jit, static_argnames="size")
    def part(variables, examples, start, *, size):
        index = start + jnp.arange(size)
        valid = index < len(examples.labels)
        index = jnp.minimum(index, len(examples.labels) - 1)
        labels = examples.labels[index]
        logits = predict(variables, normalise(examples.images[index], normalisation))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        hits = jnp.argmax(logits, -1) == labels
        return jnp.sum(losses, where=valid), jnp.sum(hits & valid)

    def evaluate(variables, examples):
        count = len(examples.labels)
        size = min(batch_size, count)
        parts = [
            part(variables, examples, start, size=size)
            for start in range(0, count, size)
        ]
        losses, hits = np.sum(jax.device_get(parts), axis=0, dtype=np.float64)
        return {"loss": float(losses / count), "accuracy": float(hits / count)}

    return evaluate


def estimate_statistics(
    network: Network, variables: Variables, batches: Iterable[Any]
) -> Variables:
    """`variables` with the mean of the statistics of `batches` in place of its own.

    A training step makes `m · old + (1 − m) · batch` of each statistic. From old = 0
    and old = 1 the momentum m follows, and so the batch's own value: exact for any
    model with such statistics, whatever its momentum.
    """
    old = statistics(variables)
    if not jax.tree.leaves(old):
        return variables
    zeros = jax.tree.map(jnp.zeros_like, old)
    ones = jax.tree.map(jnp.ones_like, old)

    @jax.jit
    def after(old, inputs):
        return network.train({"params": variables["params"], **old}, inputs)[1]

    total, count, momentum = zeros, 0, None
    for inputs in batches:
        new = after(zeros, inputs)
        if momentum is None:
            momentum = jax.tree.map(jnp.subtract, after(ones, inputs), new)
        total = jax.tree.map(jnp.add, total, new)
        count += 1
    if count == 0:
        raise ValueError("no batches to estimate the statistics from")
    mean = jax.tree.map(lambda t, m: t / (count * (1 - m)), total, momentum)
    return {"params": variables["params"], **mean}
