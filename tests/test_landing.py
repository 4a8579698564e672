"""Pruning works the same wherever Optax and JAX put it."""

import os
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import (
    KEPT,
    LINKS,
    UPDATES,
    assert_same,
    kernels,
    loss,
    make_step,
    new_params,
    once,
    sgd_then,
    state_of,
    stepwise,
    train,
    trained,
)

import jaxprune as jp


@pytest.fixture(params=LINKS)
def method(request):
    return request.param


def test_same_masks_eager(method):
    _, opt_state = train(sgd_then(LINKS[method]), transform=lambda f: f)
    assert_same(opt_state, method)


def test_same_masks_in_a_scan_with_donation_and_one_trace(method):
    tx = sgd_then(LINKS[method])
    step = once(make_step(tx))

    def body(carry, _):
        return step(*carry), None

    def run(params, opt_state):
        return jax.lax.scan(body, (params, opt_state), length=UPDATES)[0]

    params = new_params()
    _, opt_state = jax.jit(run, donate_argnums=(0, 1))(params, tx.init(params))
    assert_same(opt_state, method)


def only_kernels(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)


def by_rank(params):
    return jax.tree.map(lambda p: "w" if p.ndim > 1 else "b", params)


def partitioned(link):
    return optax.partition(
        {"w": sgd_then(link), "b": optax.sgd(0.3, momentum=0.9)}, by_rank
    )


WRAPPERS = {
    "masked": lambda link: sgd_then(optax.masked(link, only_kernels)),
    "partition": partitioned,
    "inject_hyperparams": lambda link: optax.chain(
        optax.inject_hyperparams(optax.sgd)(0.3, momentum=0.9), link
    ),
    "apply_if_finite": lambda link: optax.apply_if_finite(sgd_then(link), 3),
}
WRAPPED = [("stepwise", name) for name in WRAPPERS]
WRAPPED += [("regrow", "masked"), ("regrow", "partition")]


@pytest.mark.parametrize(("method", "wrapper"), WRAPPED)
def test_same_masks_when_wrapped(method, wrapper):
    params, opt_state = train(WRAPPERS[wrapper](LINKS[method]))
    assert_same(opt_state, method)
    assert jp.sparsity(opt_state) == jp.sparsity(trained(method)[1])
    assert sum(np.count_nonzero(w) for w in kernels(params)) == KEPT


def test_same_masks_in_multi_steps(method):
    tx = optax.MultiSteps(sgd_then(LINKS[method]), every_k_schedule=2)
    params, opt_state = train(tx, 2 * UPDATES)
    assert_same(opt_state, method)
    assert sum(np.count_nonzero(w) for w in kernels(params)) == KEPT


def test_goes_on_from_a_copy_on_disk(tmp_path):
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
    assert_same(opt_state, "stepwise")
    chex.assert_trees_all_equal(params, trained("stepwise")[0])


def test_optax_can_map_over_the_state(method):
    tx = sgd_then(LINKS[method])
    zeroed = optax.tree.map_params(tx, lambda x: x * 0, trained(method)[1])
    assert not any(map(np.any, jax.tree.leaves(zeroed[0])))
    assert not any(map(np.any, kernels(state_of(zeroed).masks)))
    assert int(state_of(zeroed).step) == UPDATES


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
