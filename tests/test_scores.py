import jax.numpy as jnp
import numpy as np

from jaxprune import scores

RNG = np.random.default_rng(0)
W = jnp.asarray(RNG.normal(size=(5, 7)), jnp.float32)
U = jnp.asarray(RNG.normal(size=(5, 7)), jnp.float32)


def test_formulas():
    np.testing.assert_array_equal(scores.magnitude(W, U), np.abs(W))
    np.testing.assert_array_equal(scores.first_order(W, U), np.abs(W * U))
    expected = np.abs(W) / np.sqrt(np.mean(np.square(W)))
    np.testing.assert_allclose(scores.layer_normalised(W, U), expected, rtol=1e-6)


def test_layer_normalised_does_not_see_the_scale_of_a_leaf():
    np.testing.assert_allclose(
        scores.layer_normalised(1000 * W, U), scores.layer_normalised(W, U), rtol=1e-5
    )
    assert not np.any(scores.layer_normalised(jnp.zeros(3), jnp.zeros(3)))


def test_low_precision_keeps_its_dtype():
    for score in (scores.magnitude, scores.layer_normalised, scores.first_order):
        assert score(W.astype(jnp.bfloat16), U.astype(jnp.bfloat16)).dtype == "bfloat16"


def test_random_stays_the_same_for_a_leaf_and_differs_between_leaves():
    score = scores.random(0)
    np.testing.assert_array_equal(score(W, U, "a"), score(U, W, "a"))
    for other in (score(W, U, "b"), scores.random(1)(W, U, "a")):
        assert np.mean(score(W, U, "a") == other) < 0.1
    assert np.all((score(W, U, "a") >= 0) & (score(W, U, "a") < 1))


def test_scores_of_several_leaves():
    [a, b] = scores.each(scores.random(0), ["a", "b"], [W, W], [U, U])
    np.testing.assert_array_equal(a, scores.random(0)(W, U, "a"))
    assert np.any(a != b)
    [one] = scores.each(scores.first_order, ["a"], [W], [U])
    np.testing.assert_array_equal(one, np.abs(W * U))
