"""Drop and regrow, an Optax transformation: sparse from start to end, RigL and SET."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
import optax

from jaxprune import landing, leafwise, masks, paths, schedules, scores, thresholds
from jaxprune.landing import Choice, Leaves, Weights
from jaxprune.stepwise import Rule
from jaxprune.types import Array, Predicate

Grow: TypeAlias = Literal["gradient", "random"]
Scope: TypeAlias = Literal["erk", "leaf", "global"]


def drop_and_regrow(
    sparsity: float,
    every: int,
    cycles: int,
    *,
    prunable: Predicate = paths.kernels,
    grow: Grow = "gradient",
    fraction: float = 0.3,
    scope: Scope = "erk",
    initial: scores.Score | None = None,
    seed: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Trains a sparse network, and moves its weights to where they are wanted.

    The masks have their final sparsity from the start. At each cycle j = 1, …, J, one
    every `every` updates, each leaf that keeps n weights drops the

        ⌊n · α/2 · (1 + cos(π·j / (J + 1)))⌋

    of least magnitude and grows as many elsewhere, so that its n never changes.
    "gradient" grows where the gradient is largest: RigL, Evci et al., *Rigging the
    lottery: making all tickets winners* (2020), with its end of mask updates after
    (J + 1)·`every` updates, about three quarters of the training there. "random" grows
    anywhere: SET, Mocanu et al., *Scalable training of artificial neural networks with
    adaptive sparse connectivity* (2018), with the same cosine. A dropped weight may be
    among the grown, and then stays as it was; all others start at exactly 0.

    Put it last in a chain, like `active_stepwise_pruning`, whose state it shares. It
    sees the optimizer's update, not the gradient. With plain SGD the largest |update|
    is the largest |gradient|. With momentum it is the largest running mean of
    gradients, as in Dettmers and Zettlemoyer, *Sparse networks from scratch* (2019),
    and a grown weight starts with that momentum; Adam divides by their size. The masks
    change after an update of the kept weights, where RigL skips that update.

    The first gradient is of the dense network that `init` was given, unless you start
    from `masks.apply(params, optax.tree.get(opt_state, "masks"))`.

    Args:
      sparsity: share of the prunable weights that are zero, in [0, 1).
      every: updates from one cycle to the next, at least 1.
      cycles: J ≥ 1; after the last the masks stay as they are.
      prunable: chooses the leaves to prune, by path.
      grow: "gradient" or "random".
      fraction: α in (0, 1], the share of the kept weights to drop at first.
      scope: how the first masks share out the sparsity: "erk", as
        `distributions.erdos_renyi_kernel`; "leaf", the same in each leaf; "global", by
        one threshold.
      initial: what the first masks keep the largest of: by default random numbers;
        `scores.magnitude` suits params that are trained already.
      seed: of the first masks and of random growth.

    Returns:
      A transformation with the state `StepwiseState`; its log counts what was dropped
      as pruned and what was grown as repaired.

    Raises:
      ValueError: an argument is out of range; in `init` and `update`, as
        `active_stepwise_pruning`.

    Example:
      >>> import jaxprune as jp
      >>> tx = optax.chain(optax.sgd(0.1), drop_and_regrow(0.75, every=1, cycles=3))
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
      >>> state = tx.init(params)
      >>> grads = {"kernel": jnp.array([[0.0, 0.0], [5.0, 0.0]])}
      >>> updates, state = tx.update(grads, state, params)
      >>> int(jnp.count_nonzero(optax.apply_updates(params, updates)["kernel"]))
      1
      >>> jp.sparsity(state)
      0.75
    """
    _validate(every, cycles, grow, fraction, scope)
    first = Rule(
        schedules.one_shot(sparsity),
        cycles=1,
        score=scores.random(seed) if initial is None else initial,
        scope=scope,
    )

    def start(names: list[str], weights: Leaves) -> Leaves:
        everything = [jnp.ones_like(w, dtype=bool) for w in weights]
        still = list(map(jnp.zeros_like, weights))
        return first(1, Weights(names, everything, weights, still)).masks

    return landing.in_cycles(
        "drop_and_regrow",
        _Exchange(cycles, grow, fraction, seed),
        every,
        cycles,
        prunable=prunable,
        start=start,
        dormant=False,
        columns=False,
    )


@dataclass(frozen=True)
class _Exchange:
    """What one cycle of `drop_and_regrow` does; its arguments as there."""

    cycles: int
    grow: Grow
    fraction: float
    seed: int

    def __call__(self, k: Array, now: Weights) -> Choice:
        """As many masks on in each leaf as before, some of them elsewhere."""
        kept = jnp.stack(list(map(masks.count, now.masks)))
        pruned = jnp.array([m.size for m in now.masks]) - kept
        drop = jnp.floor(jnp.asarray(self.shares())[k - 1] * kept).astype(jnp.int32)
        strength = [
            jnp.where(m, jnp.abs(v), -1)
            for m, v in zip(now.masks, now.values, strict=True)
        ]
        stay = leafwise.all_but_smallest(strength, pruned + drop)
        wanted = [
            jnp.where(s, jnp.inf, x)
            for s, x in zip(stay, self.growth(k, now), strict=True)
        ]
        return Choice(
            masks=leafwise.all_but_smallest(wanted, pruned),
            threshold=jnp.zeros(()),
            nans=thresholds.count_nan((strength, wanted)),
        )

    def growth(self, k: Array, now: Weights) -> Leaves:
        """How much each weight is wanted, were it not there."""
        if self.grow == "gradient":
            return list(map(jnp.abs, now.updates))
        pairs = zip(now.paths, now.masks, strict=True)
        return [scores.noise(self.seed, path, m.shape, k) for path, m in pairs]

    def shares(self) -> np.ndarray:
        """The share of the kept weights that each cycle drops."""
        angle = np.pi * np.arange(1, self.cycles + 1) / (self.cycles + 1)
        return (self.fraction / 2 * (1 + np.cos(angle))).astype(np.float32)


def _validate(every, cycles, grow, fraction, scope):
    if every < 1:
        raise ValueError(f"every must be at least 1 update, got {every}")
    if cycles < 1:
        raise ValueError(f"cycles must be at least 1, got {cycles}")
    if grow not in ("gradient", "random"):
        raise ValueError(f'grow must be "gradient" or "random", got {grow!r}')
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    if scope not in ("erk", "leaf", "global"):
        raise ValueError(f'scope must be "erk", "leaf" or "global", got {scope!r}')
