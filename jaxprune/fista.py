"""FISTA and ISTA, an Optax transformation for a smooth loss plus an L1 penalty."""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import paths
from jaxprune.prox import soft_threshold
from jaxprune.types import Array, Params, PyTree


class FistaState(NamedTuple):
    """State of `fista`.

    Attributes:
      step: how many updates there have been.
      primal: x, shaped like params; this is where the exact zeros are.
      t: t_k of Nesterov's momentum, a scalar for each leaf.
    """

    step: Array
    primal: Params
    t: PyTree


def fista(
    learning_rate: float | optax.Schedule,
    l1: float | PyTree | Callable[[str, Array], Array | float],
    *,
    momentum: Literal["nesterov"] | float = "nesterov",
    max_momentum: float = 1.0,
    restart: bool = True,
    min_learning_rate: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Minimises loss + λ·‖params‖₁ by accelerated proximal gradient steps.

    Beck and Teboulle, *A fast iterative shrinkage-thresholding algorithm for linear
    inverse problems* (2009). The params hold the extrapolated point y, where the
    gradient is taken, the state holds x; `primal_params` gives the network at x.

        x_k     = S_{ηλ}( y_k − η·∇f(y_k) )        S_t(u) = sign(u)·max(|u| − t, 0)
        t_{k+1} = (1 + √(1 + 4·t_k²)) / 2
        y_{k+1} = x_k + μ_k·(x_k − x_{k−1})        μ_k = (t_k − 1) / t_{k+1}

    Restart (O'Donoghue and Candès, *Adaptive restart for accelerated gradient
    schemes*, 2015), leaf by leaf: t_k ← 1 where ⟨y_k − x_k, x_k − x_{k−1}⟩ > 0. On
    minibatches cap the momentum at about 0.9. A constant momentum is the stochastic
    form of Huang and Wang, *Data-driven sparse structure selection* (2018).

    Args:
      learning_rate: η, a number or a function of the step.
      l1: λ ≥ 0, a number; or one for each leaf, as a pytree like the params or as a
        function of path and leaf. A leaf's may be an array that broadcasts against it.
      momentum: "nesterov" for the sequence above, or a constant μ in [0, 1); 0 is ISTA.
      max_momentum: μ_k is at most this, in [0, 1].
      restart: whether momentum starts again when it points uphill; the textbook bound
        2L‖x₀ − x*‖²/(k + 1)² is proved without.
      min_learning_rate: η is at least this, so that a decaying schedule goes on making
        zeros.

    Returns:
      A transformation with the state `FistaState`. Use it alone on its leaves, as in
      `optax.partition`; it makes the whole step, with its sign.

    Raises:
      ValueError: an argument is out of range; in `update`, no params were given.

    Example:
      >>> tx = fista(learning_rate=0.5, l1=1.0)
      >>> params = {"scale": jnp.array([3.0, 0.1])}
      >>> state = tx.init(params)
      >>> for _ in range(30):
      ...     grads = jax.tree.map(lambda p: p - 2.0, params)  # of ½(p − 2)²
      ...     updates, state = tx.update(grads, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> primal_params(state, params)["scale"].round(4)
      Array([1., 1.], dtype=float32)
    """
    _validate(learning_rate, l1, momentum, max_momentum, min_learning_rate)
    penalty = _by_path(l1)

    def init(params: Params) -> FistaState:
        return FistaState(
            step=jnp.zeros((), jnp.int32),
            primal=jax.tree.map(jnp.copy, params),
            t=jax.tree.map(lambda _: jnp.ones(()), params),
        )

    def leaf_update(gradient, y, x, t, l1, rate):
        new = soft_threshold(y - rate * gradient, rate * l1).astype(x.dtype)
        moved = new - x
        if restart:
            uphill = jnp.sum((y - new) * moved) > 0
            t = jnp.where(uphill, 1.0, t)
        next_t = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        mu = (t - 1) / next_t
        if not isinstance(momentum, str):
            mu = jnp.where(uphill, 0.0, momentum) if restart else momentum
        mu = jnp.minimum(mu, max_momentum)
        return _Leaf(((new - y) + mu * moved).astype(y.dtype), new, next_t)

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("fista needs params: call update(grads, state, params)")
        rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
        rate = jnp.maximum(rate, min_learning_rate)
        leaves = jax.tree.map_with_path(
            lambda path, g, y, x, t: leaf_update(
                g, y, x, t, penalty(paths.name(path), y), rate
            ),
            updates,
            params,
            state.primal,
            state.t,
        )
        new = jax.tree.transpose(
            jax.tree.structure(updates), jax.tree.structure(_Leaf(0, 0, 0)), leaves
        )
        return new.update, FistaState(state.step + 1, new.primal, new.t)

    return optax.GradientTransformationExtraArgs(init, update)


def primal_params(opt_state: PyTree, params: Params) -> Params:
    """The params with the leaves that FISTA trains replaced by x, its exact zeros.

    Evaluate, count and prune with these.

    Args:
      opt_state: any optimizer state with one or more `FistaState`s in it: a chain, a
        partition, masked, …
      params: the params that the optimizer trains.

    Returns:
      A pytree like `params`.

    Raises:
      ValueError: there is no `FistaState`, or it belongs to other params.

    Example:
      >>> params = {"scale": jnp.ones(2), "kernel": jnp.ones((2, 2))}
      >>> tx = optax.partition(
      ...     {"factors": fista(0.1, l1=1.0), "weights": optax.sgd(0.1)},
      ...     {"scale": "factors", "kernel": "weights"},
      ... )
      >>> primal_params(tx.init(params), params)["scale"]
      Array([1., 1.], dtype=float32)
    """
    found = jax.tree.leaves(opt_state, is_leaf=lambda n: isinstance(n, FistaState))
    states = [node for node in found if isinstance(node, FistaState)]
    if not states:
        raise ValueError("there is no FistaState in this optimizer state")
    primal = {
        paths.name(path): leaf
        for state in states
        for path, leaf in jax.tree.leaves_with_path(state.primal)
    }
    there = {paths.name(path) for path, _ in jax.tree.leaves_with_path(params)}
    if strange := sorted(primal.keys() - there):
        raise ValueError(f"the params have no leaf {strange[0]}, which FISTA trains")
    return jax.tree.map_with_path(
        lambda path, leaf: primal.get(paths.name(path), leaf), params
    )


class _Leaf(NamedTuple):
    update: Array
    primal: Array
    t: Array


def _by_path(l1) -> Callable[[str, Array], Array | float]:
    if callable(l1):
        return l1
    leaves = {paths.name(path): leaf for path, leaf in jax.tree.leaves_with_path(l1)}
    if "" in leaves:
        return lambda path, leaf: l1

    def penalty(path: str, leaf: Array) -> Array | float:
        if path not in leaves:
            raise ValueError(f"l1 has no value for {path}")
        return leaves[path]

    return penalty


def _validate(learning_rate, l1, momentum, max_momentum, min_learning_rate):
    numbers = {
        "learning_rate": (learning_rate, math.inf),
        "l1": (l1, math.inf),
        "max_momentum": (max_momentum, 1),
        "min_learning_rate": (min_learning_rate, math.inf),
    }
    for name, (value, most) in numbers.items():
        if isinstance(value, float | int) and not 0 <= value <= most:
            raise ValueError(f"{name} must be in [0, {most}], got {value}")
    if isinstance(momentum, str) and momentum != "nesterov":
        raise ValueError(f'momentum must be "nesterov" or a number, got {momentum!r}')
    if isinstance(momentum, float | int) and not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
