"""A network as the harness sees it: two pure functions, from whatever framework."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Variables = dict[str, Any]
"""`{"params": …, "batch_stats": …}`; collections beside "params" are statistics."""


class Network(NamedTuple):
    """What is trained and what is shipped.

    train: `(variables, images) -> (outputs, statistics)`; outputs are logits, or
      `(logits, auxiliary logits)`; statistics the new `{"batch_stats": …}`.
    predict: `(variables, images) -> logits`.
    """

    train: Callable[[Variables, Any], tuple[Any, Variables]]
    predict: Callable[[Variables, Any], Any]


def linen(model) -> Network:
    """A Flax Linen module whose `__call__` takes `train`."""

    def train(variables, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    def predict(variables, images):
        return model.apply(variables, images, train=False)

    return Network(train, predict)


def initialise(model, key: jax.Array, images: jax.Array) -> Variables:
    """New variables of a Flax Linen module.

    XLA takes six times as long to compile random numbers at its highest level, and they
    are not made faster by it.
    """
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 1})
    return init(key, images)


def statistics(variables: Variables) -> Variables:
    """Everything but the parameters."""
    return {k: v for k, v in variables.items() if k != "params"}
