"""Accuracy on a test set, and batch statistics estimated anew."""

import itertools
from collections.abc import Callable, Iterable, Iterator
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
) -> Callable[[Variables, Examples | Iterable[Examples]], dict[str, float]]:
    """`evaluate(variables, examples) -> {"loss", "accuracy"}` over all examples.

    Examples are given at once, and are then taken by the `batch_size`; or one batch
    after the other, of which those with a label below 0 do not count. Compiled once;
    nobody waits for the device while there is more to do.
    """

    def sums(variables, images, labels, valid):
        logits = predict(variables, normalise(images, normalisation))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        hits = jnp.argmax(logits, -1) == labels
        return jnp.sum(losses, where=valid), jnp.sum(hits & valid), jnp.sum(valid)

    @partial(jax.jit, static_argnames="size")
    def part(variables, examples, start, *, size):
        index = start + jnp.arange(size)
        valid = index < len(examples.labels)
        index = jnp.minimum(index, len(examples.labels) - 1)
        return sums(variables, examples.images[index], examples.labels[index], valid)

    @jax.jit
    def whole(variables, examples):
        return sums(variables, *examples, examples.labels >= 0)

    def parts(variables, examples):
        if not isinstance(examples, Examples):
            return (whole(variables, batch) for batch in examples)
        count = len(examples.labels)
        size = min(batch_size, count)
        starts = range(0, count, size)
        return (part(variables, examples, start, size=size) for start in starts)

    def evaluate(variables, examples):
        fetched = _one_late(parts(variables, examples))
        losses, hits, count = np.sum(list(fetched), axis=0, dtype=np.float64)
        return {"loss": float(losses / count), "accuracy": float(hits / count)}

    return evaluate


def _one_late(values: Iterable[Any]) -> Iterator[Any]:
    """Each value fetched from the device while the next one is computed."""
    first, second = itertools.tee(values)
    next(second, None)
    for value, _ in itertools.zip_longest(first, second):
        yield jax.device_get(value)


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
