"""A training step of a network on CIFAR-10's shapes, as the benchmarks time it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn


def training_step(
    model: nn.Module, tx: optax.GradientTransformation, batch: int
) -> Callable[[], Any]:
    """A function that makes one step and returns the new state; compiled already."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(batch, 32, 32, 3)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, batch))
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

    state = (
        variables["params"],
        variables["batch_stats"],
        jax.jit(tx.init)(variables["params"]),
    )
    compiled = jax.jit(step, donate_argnums=(0, 1, 2)).lower(*state).compile()

    def once():
        nonlocal state
        state = compiled(*state)
        return state

    return once
