import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.linear_model import Lasso

import jaxprune as jp

RNG = np.random.default_rng(0)
A = RNG.normal(size=(40, 20)) * np.logspace(0, -1, 20)
B = A @ np.where(np.arange(20) < 5, 3.0, 0.0) + 0.1 * RNG.normal(size=40)
LIPSCHITZ = float(np.linalg.eigvalsh(A.T @ A)[-1])
L1 = 2.0
EXACT = (
    Lasso(alpha=L1 / len(A), fit_intercept=False, tol=1e-14, max_iter=10**6)
    .fit(A, B)
    .coef_
)


def gradient(w):
    return jnp.asarray(A.T, jnp.float32) @ (jnp.asarray(A, jnp.float32) @ w - B)


def objective(w):
    w = np.asarray(w, np.float64)
    return 0.5 * np.sum((A @ w - B) ** 2) + L1 * np.abs(w).sum()


def run(steps, learning_rate=1 / LIPSCHITZ, l1=L1, **options):
    """The trajectory of x on the LASSO, and the last y."""
    tx = jp.fista(learning_rate, l1, **options)

    @jax.jit
    def trajectory(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(gradient(params), state, params)
            return (optax.apply_updates(params, updates), state), state.primal

        return jax.lax.scan(step, (params, tx.init(params)), length=steps)

    (y, _), x = trajectory(jnp.zeros(20, jnp.float32))
    return np.asarray(x), np.asarray(y)


def test_textbook_bound():
    x, _ = run(200, restart=False)
    gap = np.array([objective(w) for w in x]) - objective(EXACT)
    k = np.arange(1, 201)
    bound = 2 * LIPSCHITZ * np.sum(EXACT**2) / (k + 1) ** 2
    assert np.all(gap <= bound + 1e-4)
    ista, _ = run(200, momentum=0)
    slower = objective(ista[10]) - objective(EXACT)
    assert gap[10] < 0.1 * slower


@pytest.mark.parametrize(
    "options", [{}, {"restart": False}, {"momentum": 0.9}, {"max_momentum": 0.8}]
)
def test_ends_where_scikit_learn_ends(options):
    x, _ = run(3000, **options)
    np.testing.assert_allclose(x[-1], EXACT, atol=1e-5)
    np.testing.assert_array_equal(x[-1] == 0, EXACT == 0)


def test_ista_is_the_proximal_gradient_step():
    x, y = run(5, momentum=0)
    w = np.zeros(20)
    for _ in range(5):
        u = w - A.T @ (A @ w - B) / LIPSCHITZ
        w = np.sign(u) * np.maximum(np.abs(u) - L1 / LIPSCHITZ, 0)
    np.testing.assert_allclose(x[-1], w, atol=1e-5)
    np.testing.assert_array_equal(y == 0, x[-1] == 0)


def test_follows_the_paper():
    x, y = run(10, restart=False)
    t, previous, point = 1.0, np.zeros(20), np.zeros(20)
    for k in range(10):
        u = point - A.T @ (A @ point - B) / LIPSCHITZ
        new = np.sign(u) * np.maximum(np.abs(u) - L1 / LIPSCHITZ, 0)
        t_next = (1 + np.sqrt(1 + 4 * t * t)) / 2
        point = new + (t - 1) / t_next * (new - previous)
        t, previous = t_next, new
        np.testing.assert_allclose(x[k], new, atol=1e-4)
    np.testing.assert_allclose(y, point, atol=1e-4)


def test_restart_ends_sooner():
    restarted, _ = run(20)
    plain, _ = run(20, restart=False)
    assert objective(restarted[-1]) < objective(plain[-1])
    ripples = np.diff([objective(w) for w in plain])
    assert np.any(ripples > 1e-3)


def one_step(tx, params, grads):
    state = tx.init(params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state


def test_restart_is_per_leaf():
    tx = jp.fista(0.1, l1=0.0)
    params = {"a": jnp.ones(1), "b": jnp.ones(1)}
    state = tx.init(params)
    for gradient in (1.0, 1.0, -0.1):
        grads = {"a": jnp.ones(1), "b": jnp.full(1, gradient)}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    third = (1 + 5**0.5) / 2
    assert float(state.t["a"]) > float(state.t["b"])
    assert float(state.t["b"]) == pytest.approx(third)


def test_penalty_of_each_leaf():
    params = {"a": jnp.full(3, 2.0), "b": jnp.full(2, 2.0)}
    zero = jax.tree.map(jnp.zeros_like, params)
    by_path = {"a": jnp.array([0.0, 1.0, 5.0]), "b": 0.5}
    for l1 in (by_path, lambda path, leaf: by_path[path]):
        _, state = one_step(jp.fista(1.0, l1), params, zero)
        np.testing.assert_array_equal(state.primal["a"], [2, 1, 0])
        np.testing.assert_array_equal(state.primal["b"], [1.5, 1.5])
    with pytest.raises(ValueError, match="l1 has no value for b"):
        one_step(jp.fista(1.0, {"a": 1.0}), params, zero)


def test_learning_rate_schedule_and_floor():
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    x, _ = run(30, learning_rate=lambda k: schedule(k) / LIPSCHITZ, momentum=0)
    np.testing.assert_array_equal(x[10], x[-1])
    x, _ = run(
        3000,
        learning_rate=lambda k: schedule(k) / LIPSCHITZ,
        min_learning_rate=0.5 / LIPSCHITZ,
    )
    np.testing.assert_allclose(x[-1], EXACT, atol=1e-5)


def test_primal_params_in_partition_and_chain():
    params = {"bn": {"scale": jnp.full(3, 0.3)}, "kernel": jnp.ones((2, 3))}
    label = jp.paths.label(jp.paths.batch_norm_factors, "factors", otherwise="weights")
    tx = optax.chain(
        optax.clip(1.0),
        optax.partition(
            {
                "factors": optax.inject_hyperparams(jp.fista)(0.1, l1=10.0),
                "weights": optax.sgd(0.1),
            },
            label,
        ),
    )
    grads = jax.tree.map(jnp.ones_like, params)
    new, state = jax.jit(lambda p, g: one_step(tx, p, g))(params, grads)
    primal = jp.primal_params(state, new)
    np.testing.assert_array_equal(primal["bn"]["scale"], 0)
    np.testing.assert_array_equal(primal["kernel"], new["kernel"])
    np.testing.assert_allclose(new["kernel"], 0.9)
    with pytest.raises(ValueError, match="no leaf bn/scale"):
        jp.primal_params(state, {"kernel": params["kernel"]})
    with pytest.raises(ValueError, match="no FistaState"):
        jp.primal_params(optax.adam(0.1).init(params), params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l1": -1.0}, r"l1 must be in \[0, inf\], got -1.0"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"momentum": "fast"}, 'momentum must be "nesterov" or a number'),
        ({"max_momentum": 1.5}, "max_momentum"),
        ({"min_learning_rate": -1.0}, "min_learning_rate"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        jp.fista(**({"learning_rate": 0.1, "l1": 0.1} | options))


def test_needs_params():
    tx = jp.fista(0.1, 0.1)
    with pytest.raises(ValueError, match="needs params"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))
