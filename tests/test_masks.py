import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import masks

RNG = np.random.default_rng(0)
SCORE = jnp.asarray(np.abs(RNG.normal(size=(8, 6))), jnp.float32)
MASK = jnp.asarray(RNG.random((8, 6)) < 0.5)


def test_in_a_band_kept_weights_fall_lower_and_pruned_ones_rise_higher():
    kept, score = np.asarray(MASK), np.asarray(SCORE)
    after = np.asarray(masks.banded(MASK, SCORE, 0.3)) >= 0.7
    clear = np.abs(score / 0.7 - np.where(kept, 0.7, 1.3)) > 1e-6  # of rounding
    np.testing.assert_array_equal(
        after[clear], (score >= np.where(kept, 0.49, 0.91))[clear]
    )
    assert np.any(after != (score >= 0.7))


def test_no_band_leaves_scores_as_they_are():
    np.testing.assert_array_equal(masks.banded(MASK, SCORE, 0.0), SCORE)


def test_ties_go_by_position():
    tree = {"a": jnp.ones((2, 2)), "b": jnp.zeros(1), "c": jnp.ones(3)}
    kept = masks.all_but_smallest(tree, 4)
    np.testing.assert_array_equal(kept["a"], [[False, False], [False, True]])
    assert not kept["b"][0]
    assert np.all(kept["c"])
    assert int(masks.count(masks.all_but_smallest(tree, 0))) == 8


@pytest.mark.parametrize(("n", "m", "axis"), [(2, 4, -2), (1, 3, 1), (1, 2, 0)])
def test_n_of_m_keeps_the_largest(n, m, axis):
    kept = np.asarray(masks.n_of_m(SCORE, n, m, axis))
    groups = np.moveaxis(kept, axis, -1).reshape(-1, m)
    scores = np.moveaxis(np.asarray(SCORE), axis, -1).reshape(-1, m)
    assert np.all(groups.sum(1) == n)
    expected = scores >= np.sort(scores, 1)[:, [m - n]]
    np.testing.assert_array_equal(groups, expected)


def test_n_of_m_that_does_not_fit():
    with pytest.raises(ValueError, match="1 ≤ n < m, got n = 4, m = 4"):
        masks.n_of_m(SCORE, 4, 4)
    with pytest.raises(ValueError, match="not a multiple of 4"):
        masks.n_of_m(SCORE, 2, 4, axis=1)


def test_apply_and_count_leave_other_leaves_alone():
    params = {"kernel": jnp.ones(3), "bias": jnp.ones(2)}
    tree = {"kernel": jnp.array([True, False, True]), "bias": optax.MaskedNode()}
    out = masks.apply(params, tree)
    np.testing.assert_array_equal(out["kernel"], [1, 0, 1])
    np.testing.assert_array_equal(out["bias"], [1, 1])
    assert int(masks.count(tree)) == 2
