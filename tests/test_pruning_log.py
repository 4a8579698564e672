"""What is logged, and what is complained about."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import HOLD, SCHEDULE, SIZE, STEPS, new_params, stepwise, train, trained

import jaxprune as jp


@pytest.fixture(scope="module")
def reference():
    return trained("stepwise")


def test_log(reference):
    log = jp.pruning_log(reference[1])
    assert len(log.sparsity) == STEPS + HOLD
    net = np.cumsum(log.pruned - log.repaired) / SIZE
    np.testing.assert_allclose(log.sparsity, net, atol=1e-6)
    assert np.all(log.threshold > 0)
    assert not log.nans.any()
    np.testing.assert_allclose(log.sparsity[:4], SCHEDULE(np.arange(1, 5)), atol=0.15)
    masks = optax.tree.get(reference[1], "masks")
    assert masks["a"]["bias"] == optax.MaskedNode()


def test_misplaced_in_the_chain():
    tx = optax.chain(stepwise(every=1), optax.sgd(0.1))
    params, state = new_params(), tx.init(new_params())
    updates, state = tx.update(params, state, params)
    with pytest.raises(ValueError, match="must be the last link of the chain"):
        tx.update(updates, state, params)
    _, opt_state = train(tx, 3)
    for report in (jp.sparsity, jp.pruning_log):
        with pytest.raises(ValueError, match="must be the last link of the chain"):
            report(opt_state)


def test_nan_scores():
    tx = stepwise(every=1)
    params = new_params()
    bad = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    with pytest.raises(ValueError, match=f"{SIZE} of {SIZE} scores are NaN"):
        tx.update(bad, tx.init(params), params)
    _, state = jax.jit(tx.update)(bad, tx.init(params), params)
    assert int(state.log.nans[0]) == SIZE
    with pytest.raises(ValueError, match=f"{SIZE} scores were NaN"):
        jp.sparsity(state)


def test_missing_params_and_states():
    tx = stepwise()
    params = new_params()
    with pytest.raises(ValueError, match="needs params"):
        tx.update(params, tx.init(params))
    with pytest.raises(ValueError, match="no StepwiseState"):
        jp.sparsity(optax.sgd(0.1).init(params))
    with pytest.raises(ValueError, match="matches none of the 3 leaves"):
        stepwise(prunable=jp.paths.matching("nothing")).init(params)
