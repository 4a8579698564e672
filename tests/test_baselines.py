"""Baselines are fields of the config: each does what it is named after."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from experiments import branches, methods, optimizers
from experiments.config import Config
from experiments.train import Fitted

STEPS = 16  # 3 + 5 cycles, one an update
WEIGHTS = {
    "a": {"kernel": jax.random.normal(jax.random.key(0), (40, 30))},
    "b": {"kernel": 0.1 * jax.random.normal(jax.random.key(1), (8, 10))},
}
GRADIENTS = jax.tree.map(lambda w: jnp.roll(w, 7, 0), WEIGHTS)
FACTORS = {
    "BatchNorm_0": {"scale": jnp.array([1.0, -0.5]), "bias": jnp.array([0.3, 0.0])},
    "Conv_0": {"kernel": jnp.ones((1, 1, 2, 2))},
}


def pruned(weights=WEIGHTS, final=0.5, **fields):
    """The state of the pruning link after one tiny update, its first cycle."""
    config = Config(
        **{"pruning_steps": 3, "hysteresis": 0.0, "average_last": 0.0, **fields}
    )
    tx = methods.stepwise(config, 1e-6, STEPS, final, jp.paths.kernels).tx
    return tx.update(GRADIENTS, tx.init(weights), weights)[1][-1]


def masks_of(state):
    return {name: np.asarray(mask["kernel"]) for name, mask in state.masks.items()}


@pytest.mark.parametrize(
    ("schedule", "share"),
    [
        ("logarithmic", np.log(1 + 10 / 3) / np.log(11)),
        ("cubic", 19 / 27),
        ("linear", 1 / 3),
        ("one_shot", 1),
    ],
)
def test_sparsity_rises_as_the_schedule_says(schedule, share):
    state = pruned(schedule=schedule)
    assert jp.sparsity(state) == pytest.approx(0.5 * share, abs=1e-3)
    assert state.log.sparsity.shape == (8,)


def test_the_zeros_are_where_the_distribution_says():
    same = masks_of(pruned(schedule="one_shot", distribution="leaf"))
    assert same["a"].mean() == same["b"].mean() == 0.5
    erk = masks_of(pruned(final=0.8, schedule="one_shot", distribution="erk"))
    assert erk["a"].mean() < 0.2 < erk["b"].mean()
    assert erk["a"].sum() + erk["b"].sum() == pytest.approx(0.2 * 1280, abs=2)
    for mask in masks_of(pruned(distribution="2:4")).values():
        assert (mask.reshape(-1, 4, mask.shape[-1]).sum(1) == 2).all()


def test_a_global_threshold_leaves_the_floor():
    weak = {**WEIGHTS, "b": {"kernel": 1e-3 * WEIGHTS["b"]["kernel"]}}
    for floor, left in ((0.0, 0), (0.05, 4)):
        state = pruned(weak, final=0.9, schedule="one_shot", floor=floor)
        assert masks_of(state)["b"].sum() == left


def test_layer_normalised_scores_know_no_scale():
    weak = {**WEIGHTS, "b": {"kernel": 1e-3 * WEIGHTS["b"]["kernel"]}}
    state = pruned(weak, schedule="one_shot", score="layer_normalised")
    assert masks_of(state)["b"].mean() == pytest.approx(0.5, abs=0.1)


def test_random_scores_know_no_weights():
    random = partial(pruned, schedule="one_shot", score="random")
    first, other = random(), random(jax.tree.map(lambda w: w[::-1], WEIGHTS))
    chex.assert_trees_all_equal(first.masks, other.masks)
    assert jp.sparsity(first) == 0.5
    assert (masks_of(first)["a"] != masks_of(random(seed=1))["a"]).any()


def test_without_recovery_no_value_lies_dormant():
    assert jax.tree.leaves(pruned().dormant)
    assert not jax.tree.leaves(pruned(recover=False).dormant)


@pytest.mark.parametrize("regrow", ["gradient", "random"])
def test_drop_and_regrow_is_sparse_from_the_start(regrow):
    state = pruned(final=0.8, regrow=regrow, distribution="leaf")
    assert state.log.pruned[0] == state.log.repaired[0] > 0
    for mask in masks_of(state).values():
        assert mask.mean() == pytest.approx(0.2)


def factors(steps, **fields):
    """γ and β after each of some updates with a constant gradient of 0.1."""
    config = Config(l1_scale=0.2, l1_shift=0.0, **fields)
    tx = methods.channels(config, 1.0, 100, sparsify=True).tx
    grads = jax.tree.map(lambda p: jnp.full_like(p, 0.1), FACTORS)
    params, state, seen = FACTORS, tx.init(FACTORS), []
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params["BatchNorm_0"])
    return seen, state


def test_ista_is_proximal_gradient_descent():
    scale, rate = np.array([1.0, -0.5]), optimizers.one_cycle(1.0, 100)
    seen, _ = factors(3, solver="ista")
    for step, found in enumerate(seen):
        eta = float(rate(step))
        moved = scale - eta * 0.1
        scale = np.sign(moved) * np.maximum(np.abs(moved) - eta * 0.2, 0)
        np.testing.assert_allclose(found["scale"], scale, rtol=1e-5)
    accelerated, _ = factors(3, solver="fista")
    assert accelerated[-1]["scale"][0] < seen[-1]["scale"][0]


def test_the_subgradient_pulls_every_scale_towards_zero_alike():
    seen, state = factors(1, solver="subgradient")
    eta = 1.9 * float(optimizers.one_cycle(1.0, 100)(0))  # Nesterov, first step
    before = FACTORS["BatchNorm_0"]
    expected = before["scale"] - eta * (0.1 + 0.2 * jnp.sign(before["scale"]))
    np.testing.assert_allclose(seen[0]["scale"], expected, rtol=1e-5)
    np.testing.assert_allclose(seen[0]["bias"], before["bias"] - eta * 0.1, rtol=1e-5)
    with pytest.raises(ValueError, match="no FistaState"):
        jp.primal_params(state, FACTORS)


@pytest.mark.parametrize("solver", ["fista", "ista", "subgradient"])
def test_fine_tuning_starts_its_schedule_anew(solver):
    config = Config(solver=solver)
    state = methods.channels(config, 0.1, 9, sparsify=True).tx.init(FACTORS)
    late = jax.tree.map(lambda x: x + 9 if x.dtype == jnp.int32 else x, state)
    plan = jp.Plan({"params/Conv_0/kernel": (1, 1, 2, 2)}, {})
    removal = branches.Removal(plan, None, None, {})
    anew = branches.shrunk_state(removal, Fitted(None, None, late, {}))
    chex.assert_trees_all_equal(anew, state)
