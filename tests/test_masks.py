import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxprune import masks

RNG = np.random.default_rng(0)
SCORE = jnp.asarray(np.abs(RNG.normal(size=(8, 6))), jnp.float32)
MASK = jnp.asarray(RNG.random((8, 6)) < 0.5)


def test_prune_and_repair_by_the_rule():
    new = np.asarray(masks.prune_and_repair(MASK, SCORE, 0.7, 0.3))
    kept, score = np.asarray(MASK), np.asarray(SCORE)
    np.testing.assert_array_equal(new[kept], score[kept] >= 0.7 * np.float32(0.7))
    np.testing.assert_array_equal(new[~kept], score[~kept] > 1.3 * np.float32(0.7))


def test_inside_the_band_nothing_changes():
    score = jnp.full((8, 6), 1.05)
    np.testing.assert_array_equal(masks.prune_and_repair(MASK, score, 1, 0.1), MASK)


def test_no_band_cuts_at_the_threshold():
    new = masks.prune_and_repair(MASK, SCORE, 0.7, 0.0)
    np.testing.assert_array_equal(new, SCORE >= 0.7)


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
