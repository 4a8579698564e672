"""What active stepwise pruning does to weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import (
    EVERY,
    HOLD,
    KEPT,
    SCHEDULE,
    SIZE,
    STEPS,
    UPDATES,
    kernels,
    loss,
    new_params,
    sgd_then,
    state_of,
    stepwise,
    train,
    trained,
)

import jaxprune as jp


@pytest.fixture(scope="module")
def reference():
    return trained("stepwise")


def test_exactly_as_many_non_zeros_as_asked(reference):
    params, opt_state = reference
    assert sum(np.count_nonzero(w) for w in kernels(params)) == KEPT
    assert jp.sparsity(opt_state) == pytest.approx(1 - KEPT / SIZE)
    assert np.all(np.asarray(params["a"]["bias"]) != 0)


def as_far_as_is_usual(update, kept):
    """Cut at the geometric mean of kept updates, rounded to a power of two."""
    usual = 2.0 ** np.rint(np.mean(np.log2(np.abs(update[kept], dtype=np.float64))))
    return np.clip(update, -np.float32(usual), np.float32(usual))


def test_zero_where_pruned_untouched_where_kept_dormant_value_where_repaired():
    """Each update beside the inner chain's own, bit for bit, by hand."""
    inner, link = optax.sgd(0.3, momentum=0.9), stepwise()
    params = new_params()
    inner_state, state = inner.init(params), link.init(params)
    value_and_grad = jax.jit(jax.grad(loss))
    repaired = pruned = cut = 0
    for _ in range(UPDATES):
        grads = value_and_grad(params)
        proposed, inner_state = inner.update(grads, inner_state, params)
        updates, new = link.update(proposed, state, params)
        after = optax.apply_updates(params, updates)
        alone = kernels(optax.apply_updates(params, proposed))
        np.testing.assert_array_equal(
            after["a"]["bias"], params["a"]["bias"] + proposed["a"]["bias"]
        )
        for j in range(2):
            was, now = kernels(state.masks)[j], kernels(new.masks)[j]
            got, dormant = kernels(after)[j], kernels(state.dormant)[j]
            assert np.all(got[~now] == 0)
            np.testing.assert_array_equal(got[was & now], alone[j][was & now])
            back = now & ~was
            calm = as_far_as_is_usual(kernels(proposed)[j], was)
            lived = dormant + calm
            np.testing.assert_array_equal(got[back], lived[back])
            out = ~now & ~was
            np.testing.assert_array_equal(kernels(new.dormant)[j][out], lived[out])
            assert np.all(kernels(new.dormant)[j][now] == 0)
            repaired += back.sum()
            pruned += (was & ~now).sum()
            cut += np.sum(calm[out] != kernels(proposed)[j][out])
        params, state = after, new
    log = jp.pruning_log(state)
    assert repaired == log.repaired.sum() > 0
    assert cut > 0
    assert pruned == log.pruned.sum()
    assert pruned - repaired == SIZE - KEPT


def test_memory_is_one_mask_and_one_dormant_value(reference):
    state = state_of(reference[1])
    sizes = [x.nbytes for x in jax.tree.leaves((state.masks, state.dormant))]
    assert sum(sizes) == SIZE * 5
    plain = sgd_then(stepwise(recover=False)).init(new_params())
    assert not jax.tree.leaves(state_of(plain).dormant)


def test_weight_decay_does_not_reach_dormant_values():
    tx = optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1), stepwise())
    params = new_params()
    state = tx.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    update = jax.jit(tx.update)
    for i in range(STEPS * EVERY):
        updates, state = update(zero, state, params)
        params = optax.apply_updates(params, updates)
        if i == EVERY - 1:
            early = state_of(state)
    late = state_of(state)
    for i in range(2):
        out = ~kernels(early.masks)[i] & ~kernels(late.masks)[i]
        assert out.any()
        np.testing.assert_array_equal(
            kernels(late.dormant)[i][out], kernels(early.dormant)[i][out]
        )


def wrongly_pruned(recover):
    """Weight 0 is pruned while it is small; then the loss wants it to be large."""
    pruned_at, updates = 20, 400
    target = jnp.array([[0.1, 0.0, 0.3, 2.0, 2.0, 2.0, 2.0, 2.0]])
    later = jnp.array([[3.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0]])
    schedule = jp.schedules.one_shot(0.25)
    link = stepwise(schedule, every=pruned_at, hold=18, recover=recover)
    tx = optax.chain(optax.sgd(0.1), link)

    def loss(params, target):
        return 0.5 * jnp.sum((params["kernel"] - target) ** 2)

    def step(carry, i):
        params, state = carry
        noise = 0.2 * jax.random.normal(jax.random.key(i), target.shape)
        wanted = jnp.where(i <= pruned_at, target, later + noise)
        updates, state = tx.update(jax.grad(loss)(params, wanted), state, params)
        return (optax.apply_updates(params, updates), state), None

    params = {"kernel": target}
    carry = params, tx.init(params)
    (params, state), _ = jax.lax.scan(step, carry, jnp.arange(updates))
    return float(loss(params, later)), np.asarray(params["kernel"][0]), state


def test_recovery_recovers():
    with_recovery, weights, state = wrongly_pruned(recover=True)
    assert jp.pruning_log(state).repaired.sum() >= 1
    np.testing.assert_array_equal(weights == 0, [0, 1, 1, 0, 0, 0, 0, 0])
    without, weights, state = wrongly_pruned(recover=False)
    assert jp.pruning_log(state).repaired.sum() == 0
    assert weights[0] == 0
    assert with_recovery < 0.1 < 4 < without


def test_dormant_values_do_not_run_away():
    """Noise a thousand times that of kept weights leaves what is pruned pruned."""
    pruned_at, updates = 5, 100
    tx = stepwise(jp.schedules.one_shot(0.5), every=pruned_at, hold=19)
    small = jnp.array([[True, True, True, True, False, False, False, False]])

    def step(carry, i):
        params, state = carry
        noise = jnp.where(small, 1.0, 1e-3) * (i >= pruned_at)
        noise *= jax.random.normal(jax.random.key(i), small.shape)
        updates, state = tx.update({"kernel": noise}, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = {"kernel": jnp.where(small, 0.1, 1.0)}
    carry = params, tx.init(params)
    (params, state), _ = jax.lax.scan(step, carry, jnp.arange(updates))
    np.testing.assert_array_equal(params["kernel"] == 0, small)
    assert jp.pruning_log(state).repaired.sum() == 0


def test_one_shot_magnitude_is_the_classic():
    tx = stepwise(jp.schedules.one_shot(0.6), every=1, hold=0)
    params = new_params()
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(zero, tx.init(params), params)
    got = np.concatenate(
        [w.ravel() for w in kernels(optax.apply_updates(params, updates))]
    )
    want = np.concatenate([w.ravel() for w in kernels(params)])
    want[np.argsort(np.abs(want), kind="stable")[: round(0.6 * SIZE)]] = 0
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "options",
    [
        {"recover": False, "schedule": jp.schedules.cubic(0.75, steps=STEPS)},
        {"hysteresis": 0.0, "score": jp.scores.layer_normalised},
        {"score": jp.scores.first_order, "scope": "leaf"},
        {"scope": (1, 2), "recover": False},
        {"floor": 0.2, "hold": 0},
    ],
)
def test_baselines(options):
    params, opt_state = train(sgd_then(stepwise(**options)))
    got = kernels(params)
    scope = options.get("scope", "global")
    if scope == "leaf":
        assert [np.count_nonzero(w) for w in got] == [12, 6]
        assert jp.pruning_log(opt_state).threshold.shape == (STEPS + HOLD, 2)
    elif scope == (1, 2):
        pairs = [np.count_nonzero(w.reshape(-1, 2, w.shape[1]), axis=1) for w in got]
        assert all(np.all(pair == 1) for pair in pairs)
    else:
        assert sum(np.count_nonzero(w) for w in got) == KEPT
    if not options.get("recover", True):
        assert jp.pruning_log(opt_state).repaired.sum() == 0


def test_erk_has_its_shares_at_every_cycle():
    link = stepwise(scope="erk", hysteresis=0.0, recover=False)
    params, opt_state = train(sgd_then(link))
    shapes = [w.shape for w in kernels(params)]
    pruned = jp.distributions.erdos_renyi_kernel(shapes, SCHEDULE.final)
    assert [np.sum(w == 0) for w in kernels(params)] == list(pruned)
    assert sum(pruned) == SIZE - KEPT
    log = jp.pruning_log(opt_state)
    asked = [round(float(SCHEDULE(k)) * SIZE) for k in range(1, STEPS + HOLD + 1)]
    np.testing.assert_allclose(log.sparsity * SIZE, asked, rtol=1e-6)
    assert log.threshold.shape == (STEPS + HOLD, 2)


def test_erk_that_would_empty_a_leaf():
    with pytest.raises(ValueError, match="keeps 1 of 72 weights, fewer than the 2"):
        stepwise(jp.schedules.linear(0.99, steps=2), scope="erk").init(new_params())


def test_random_masks_are_random_exact_and_do_not_flicker():
    params, opt_state = train(sgd_then(stepwise(score=jp.scores.random(3))))
    names = ["a/kernel", "b/kernel"]
    noise = [
        np.asarray(jp.scores.noise(3, name, w.shape))
        for name, w in zip(names, kernels(params), strict=True)
    ]
    cut = np.sort(np.concatenate([x.ravel() for x in noise]))[SIZE - KEPT]
    for x, w in zip(noise, kernels(params), strict=True):
        np.testing.assert_array_equal(w != 0, x >= cut)
    log = jp.pruning_log(opt_state)
    assert log.pruned.sum() == SIZE - KEPT
    assert not log.repaired.any()


def test_floor_keeps_a_small_layer_alive():
    params = {
        "a": {"kernel": jnp.ones((10, 10))},
        "b": {"kernel": jnp.full((5, 2), 0.01)},
    }
    zero = jax.tree.map(jnp.zeros_like, params)
    for floor, alive in ((0.0, 0), (0.3, 3)):
        tx = stepwise(jp.schedules.one_shot(0.5), every=1, hold=0, floor=floor)
        updates, state = tx.update(zero, tx.init(params), params)
        after = optax.apply_updates(params, updates)
        assert np.count_nonzero(after["b"]["kernel"]) == alive
        assert jp.sparsity(state) == pytest.approx(0.5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_params(dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), new_params())
    tx = stepwise(jp.schedules.one_shot(0.5), every=1, hold=0)
    updates = jax.tree.map(lambda p: jnp.full(p.shape, 0.01, jnp.float32), params)
    updates, state = tx.update(updates, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    assert after["a"]["kernel"].dtype == dtype
    assert sum(np.count_nonzero(w) for w in kernels(after)) == SIZE - round(SIZE / 2)
    assert state.dormant["a"]["kernel"].dtype == dtype


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1 update, got 0"),
        ({"hold": -1}, "hold must be at least 0 cycles, got -1"),
        ({"hysteresis": 1.0}, r"hysteresis must be in \[0, 1\), got 1.0"),
        ({"scope": "layer"}, "scope must be"),
        ({"scope": (4, 2)}, "1 ≤ n < m"),
        ({"floor": 0.3}, "floor must be in"),
        ({"schedule": 0.5}, "schedule must be a"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        stepwise(**options)
