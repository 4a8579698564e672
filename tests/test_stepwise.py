import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

STEPS, EVERY, HOLD = 4, 2, 2
UPDATES = (STEPS + HOLD) * EVERY + 3
SCHEDULE = jp.schedules.logarithmic(final=0.75, curvature=10, steps=STEPS)
SIZE = 8 * 6 + 6 * 4
KEPT = SIZE - round(0.75 * SIZE)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(16, 8)), jnp.float32)
Y = jnp.asarray(RNG.normal(size=(16, 4)), jnp.float32)


def new_params():
    rng = np.random.default_rng(1)
    shapes = {"a": {"kernel": (8, 6), "bias": (6,)}, "b": {"kernel": (6, 4)}}
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def loss(params):
    hidden = jnp.tanh(X @ params["a"]["kernel"] + params["a"]["bias"])
    return jnp.mean(jnp.square(hidden @ params["b"]["kernel"] - Y))


def stepwise(schedule=SCHEDULE, every=EVERY, hold=HOLD, **options):
    return jp.active_stepwise_pruning(schedule, every, hold=hold, **options)


def sgd_then(*links):
    return optax.chain(optax.sgd(0.3, momentum=0.9), *links)


def state_of(opt_state):
    found = jax.tree.leaves(
        opt_state, is_leaf=lambda s: isinstance(s, jp.StepwiseState)
    )
    return next(s for s in found if isinstance(s, jp.StepwiseState))


def kernels(tree):
    return [np.asarray(tree["a"]["kernel"]), np.asarray(tree["b"]["kernel"])]


def make_step(tx):
    def step(params, opt_state):
        value, grads = jax.value_and_grad(loss)(params)
        extra = {"value": value, "grad": grads, "value_fn": loss}
        tx_ = optax.with_extra_args_support(tx)
        updates, opt_state = tx_.update(grads, opt_state, params, **extra)
        return optax.apply_updates(params, updates), opt_state

    return step


def train(tx, updates=UPDATES, transform=jax.jit):
    step, params = transform(make_step(tx)), new_params()
    opt_state = tx.init(params)
    for _ in range(updates):
        params, opt_state = step(params, opt_state)
    return params, opt_state


def assert_same(one, other):
    chex.assert_trees_all_equal(state_of(one).masks, other.masks)


@pytest.fixture(scope="module")
def reference():
    return train(sgd_then(stepwise()))


def test_exactly_as_many_non_zeros_as_asked(reference):
    params, opt_state = reference
    assert sum(np.count_nonzero(w) for w in kernels(params)) == KEPT
    assert jp.sparsity(opt_state) == pytest.approx(1 - KEPT / SIZE)
    assert np.all(np.asarray(params["a"]["bias"]) != 0)


def test_zero_where_pruned_untouched_where_kept_dormant_value_where_repaired():
    """Each update beside the inner chain's own, bit for bit, by hand."""
    inner, link = optax.sgd(0.3, momentum=0.9), stepwise()
    params = new_params()
    inner_state, state = inner.init(params), link.init(params)
    value_and_grad = jax.jit(jax.grad(loss))
    repaired = pruned = 0
    for _ in range(UPDATES):
        grads = value_and_grad(params)
        proposed, inner_state = inner.update(grads, inner_state, params)
        updates, new = link.update(proposed, state, params)
        after = optax.apply_updates(params, updates)
        alone = kernels(optax.apply_updates(params, proposed))
        np.testing.assert_array_equal(
            after["a"]["bias"], params["a"]["bias"] + proposed["a"]["bias"]
        )
        for i in range(2):
            was, now = kernels(state.masks)[i], kernels(new.masks)[i]
            got, dormant = kernels(after)[i], kernels(state.dormant)[i]
            assert np.all(got[~now] == 0)
            np.testing.assert_array_equal(got[was & now], alone[i][was & now])
            back = now & ~was
            lived = dormant + kernels(proposed)[i]
            np.testing.assert_array_equal(got[back], lived[back])
            out = ~now & ~was
            np.testing.assert_array_equal(kernels(new.dormant)[i][out], lived[out])
            assert np.all(kernels(new.dormant)[i][now] == 0)
            repaired += back.sum()
            pruned += (was & ~now).sum()
        params, state = after, new
    log = jp.pruning_log(state)
    assert repaired == log.repaired.sum() > 0
    assert pruned == log.pruned.sum()
    assert pruned - repaired == SIZE - KEPT


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


def test_memory_is_one_mask_and_one_dormant_value(reference):
    state = state_of(reference[1])
    sizes = [x.nbytes for x in jax.tree.leaves((state.masks, state.dormant))]
    assert sum(sizes) == SIZE * 5
    plain = sgd_then(stepwise(recover=False)).init(new_params())
    assert not jax.tree.leaves(state_of(plain).dormant)


def test_same_masks_eager(reference):
    _, opt_state = train(sgd_then(stepwise()), transform=lambda f: f)
    assert_same(opt_state, state_of(reference[1]))


def test_same_masks_in_a_scan_with_donation_and_one_trace(reference):
    tx = sgd_then(stepwise())
    step = chex.assert_max_traces(make_step(tx), n=1)

    def body(carry, _):
        return step(*carry), None

    def run(params, opt_state):
        return jax.lax.scan(body, (params, opt_state), length=UPDATES)[0]

    params = new_params()
    _, opt_state = jax.jit(run, donate_argnums=(0, 1))(params, tx.init(params))
    assert_same(opt_state, state_of(reference[1]))


def test_one_trace_with_donation(reference):
    def transform(step):
        return jax.jit(chex.assert_max_traces(step, n=1), donate_argnums=(0, 1))

    _, opt_state = train(sgd_then(stepwise()), transform=transform)
    assert_same(opt_state, state_of(reference[1]))


def only_kernels(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def by_rank(params):
    return jax.tree.map(lambda p: "w" if p.ndim > 1 else "b", params)


WRAPPED = {
    "masked": sgd_then(optax.masked(stepwise(), only_kernels)),
    "partition": optax.partition(
        {"w": sgd_then(stepwise()), "b": optax.sgd(0.3, momentum=0.9)}, by_rank
    ),
    "inject_hyperparams": optax.chain(
        optax.inject_hyperparams(optax.sgd)(0.3, momentum=0.9), stepwise()
    ),
    "apply_if_finite": optax.apply_if_finite(sgd_then(stepwise()), 3),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_same_masks_when_wrapped(reference, name):
    params, opt_state = train(WRAPPED[name])
    assert_same(opt_state, state_of(reference[1]))
    assert jp.sparsity(opt_state) == jp.sparsity(reference[1])
    assert sum(np.count_nonzero(w) for w in kernels(params)) == KEPT


def test_same_masks_in_multi_steps(reference):
    tx = optax.MultiSteps(sgd_then(stepwise()), every_k_schedule=2)
    params, opt_state = train(tx, 2 * UPDATES)
    assert_same(opt_state, state_of(reference[1]))
    assert sum(np.count_nonzero(w) for w in kernels(params)) == KEPT


def test_goes_on_from_a_copy_on_disk(reference, tmp_path):
    tx = sgd_then(stepwise())
    step, params = jax.jit(make_step(tx)), new_params()
    opt_state = tx.init(params)
    for i in range(UPDATES):
        params, opt_state = step(params, opt_state)
        if i == 5:
            leaves, structure = jax.tree.flatten((params, opt_state))
            np.savez(tmp_path / "state.npz", *leaves)
            with np.load(tmp_path / "state.npz") as file:
                leaves = [jnp.asarray(file[name]) for name in file]
            params, opt_state = jax.tree.unflatten(structure, leaves)
    assert_same(opt_state, state_of(reference[1]))
    chex.assert_trees_all_equal(params, reference[0])


def test_optax_can_map_over_the_state(reference):
    tx = sgd_then(stepwise())
    doubled = optax.tree.map_params(tx, lambda x: x * 0, reference[1])
    assert not any(map(np.any, kernels(state_of(doubled).dormant)))
    assert int(state_of(doubled).step) == UPDATES


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
    """Weight 0 starts smallest, and the loss wants it to be the largest."""
    target = jnp.array([[3.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0, 2.0]])
    start = jnp.array([[0.1, 0.5, 0.6, 2.0, 2.0, 2.0, 2.0, 2.0]])
    link = stepwise(jp.schedules.linear(0.25, steps=2), every=1, hold=20)
    if not recover:
        link = stepwise(
            jp.schedules.linear(0.25, steps=2), every=1, hold=20, recover=False
        )
    tx = optax.chain(optax.sgd(0.1), link)

    def loss(params):
        return 0.5 * jnp.sum((params["kernel"] - target) ** 2)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = {"kernel": start}
    state = tx.init(params)
    for _ in range(60):
        params, state = step(params, state)
    return float(loss(params)), np.asarray(params["kernel"][0]), state


def test_recovery_recovers():
    with_recovery, weights, state = wrongly_pruned(recover=True)
    log = jp.pruning_log(state)
    assert log.repaired.sum() >= 1
    np.testing.assert_array_equal(weights == 0, [0, 1, 1, 0, 0, 0, 0, 0])
    without, weights, state = wrongly_pruned(recover=False)
    assert jp.pruning_log(state).repaired.sum() == 0
    assert weights[0] == 0
    assert with_recovery < 0.1 < 4 < without


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


NAMES = """
    adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage
    lamb lars lbfgs lion nadam nadamw noisy_sgd novograd optimistic_adam
    optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam rmsprop rprop sgd
    sign_sgd signum sm3 yogi
""".split()  # noqa: SIM905
NEED_NO_RATE = ("adadelta", "adafactor", "lbfgs", "polyak_sgd")
OPTIMIZERS = {
    name: {} if name in NEED_NO_RATE else {"learning_rate": 0.01} for name in NAMES
}
OPTIMIZERS["noisy_sgd"]["key"] = 0
OPTIMIZERS["lbfgs"]["linesearch"] = None  # which would take a minute to compile
HALF = stepwise(jp.schedules.linear(0.5, steps=1), every=1, hold=1)
update_half = jax.jit(HALF.update)


@pytest.mark.filterwarnings("ignore:.*optimistic_adam:DeprecationWarning")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_optax(name):
    inner = optax.with_extra_args_support(getattr(optax, name)(**OPTIMIZERS[name]))
    params = new_params()
    inner_state, state = inner.init(params), HALF.init(params)

    @jax.jit
    def propose(params, inner_state):
        value, grads = jax.value_and_grad(loss)(params)
        extra = {"value": value, "grad": grads, "value_fn": loss}
        return inner.update(grads, inner_state, params, **extra)

    for _ in range(3):
        proposed, inner_state = propose(params, inner_state)
        updates, state = update_half(proposed, state, params)
        params = optax.apply_updates(params, updates)
    masks = kernels(state.masks)
    for weights, mask in zip(kernels(params), masks, strict=True):
        assert np.all(weights[~mask] == 0)
        assert np.all(weights[mask] != 0)
    assert jp.sparsity(state) == 0.5


def test_every_optimizer_is_every_one():
    """What `optax.*` exports and makes updates of params on its own."""
    import inspect

    exported = {
        name
        for name, f in vars(optax).items()
        if inspect.isfunction(f) and f.__module__ == "optax._src.alias"
    }
    assert exported <= set(OPTIMIZERS)


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


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
import jaxprune as jp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
rng = np.random.default_rng(0)
x, w = rng.normal(size=(32, 16)), rng.normal(size=(16, 128))
x, w = x.astype(np.float32), w.astype(np.float32)
tx = optax.chain(
    optax.sgd(0.1),
    jp.active_stepwise_pruning(jp.schedules.linear(0.7, steps=2), every=1, hold=1),
)

@jax.jit
def step(params, state, x):
    loss = lambda p: jnp.mean(jnp.square(x @ p["kernel"] - 1))
    updates, state = tx.update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state

found = []
for data, spec in [((), ()), (("d",), ()), ((), ("d",)), ((), (None, "d"))]:
    params = {"kernel": put(w, *spec)}
    state = tx.init(params)
    for _ in range(3):
        params, state = step(params, state, put(x, *data))
    mask = optax.tree.get(state, "masks")["kernel"]
    if spec:
        assert mask.addressable_shards[0].data.size == mask.size // 8, mask.sharding
    assert np.count_nonzero(params["kernel"]) == w.size - round(0.7 * w.size)
    found.append(np.asarray(mask))
    kth = jax.jit(jp.thresholds.kth_smallest)([put(w, *spec)], 1000)
    assert float(kth) == np.sort(w.ravel())[1000]
assert all(np.array_equal(found[0], other) for other in found)
"""


def test_same_masks_on_data_parallel_and_sharded_meshes():
    flags = "--xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
