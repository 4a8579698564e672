"""What is minimised: cross-entropy, with a share for each auxiliary classifier."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

LossFn = Callable[[Any, jax.Array], jax.Array]
"""`loss(outputs, labels)`, with the outputs of `Network.train`: a scalar."""


def head_weights(depths: Sequence[float], depth: float) -> tuple[float, ...]:
    """`w_k = max(0.01, (depth_k / depth)²)` for heads at `depths` of `depth` layers."""
    return tuple(max(0.01, (d / depth) ** 2) for d in depths)


def logits_of(outputs: Any) -> jax.Array:
    """The final classifier's logits; auxiliary ones, if any, stand behind them."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def classification(smoothing: float = 0.1, heads: Sequence[float] = ()) -> LossFn:
    """`CE(final) + Σ_k w_k · CE(aux_k)`, averaged over the batch.

    Args:
      smoothing: label smoothing, in [0, 1).
      heads: w_k, one weight per auxiliary classifier, in the order of the outputs.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"label smoothing must be in [0, 1), got {smoothing}")

    def cross_entropy(logits, labels):
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(targets, smoothing)
        return jnp.mean(optax.softmax_cross_entropy(logits, targets))

    def loss(outputs, labels):
        logits, *rest = jax.tree.leaves(outputs)
        if len(rest) != len(heads):
            raise ValueError(
                f"{len(rest)} auxiliary classifiers but {len(heads)} weights for them"
            )
        auxiliary = (
            w * cross_entropy(x, labels) for w, x in zip(heads, rest, strict=True)
        )
        return cross_entropy(logits, labels) + sum(auxiliary)

    return loss
