import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from two_layers import (
    EVERY,
    HOLD,
    KEPT,
    SIZE,
    STEPS,
    UPDATES,
    kernels,
    loss,
    new_params,
    regrow,
    state_of,
    trained,
)

import jaxprune as jp

CYCLES = STEPS + HOLD
INNER = optax.sgd(0.3, momentum=0.9)
GRADIENT = jax.jit(jax.grad(loss))


def counts(tree):
    return [np.count_nonzero(x) for x in kernels(tree)]


def walk(link, updates=UPDATES, transform=lambda f: f):
    """Each update: what the inner chain proposes, and before and after of the rest."""
    update, params = transform(link.update), new_params()
    inner_state, state = INNER.init(params), link.init(params)
    for _ in range(updates):
        proposed, inner_state = INNER.update(GRADIENT(params), inner_state, params)
        updates, new = update(proposed, state, params)
        after = optax.apply_updates(params, updates)
        yield proposed, params, state, after, new
        params, state = after, new


def exchanged(weight, update, mask, drop):
    """One cycle of RigL in a leaf, by sorting."""
    weight, update, mask = (x.ravel() for x in (weight, update, mask))
    strength = np.where(mask, np.abs(weight + update), -1)
    stay = np.zeros(mask.size, bool)
    stay[np.argsort(strength, kind="stable")[mask.size - mask.sum() + drop :]] = True
    wanted = np.where(stay, np.inf, np.abs(update))
    new = np.zeros(mask.size, bool)
    new[np.argsort(wanted, kind="stable")[mask.size - mask.sum() :]] = True
    return new


def test_every_update_by_hand():
    """Zero where pruned, 0 where grown, else the inner chain's own bit for bit."""
    shares = jp.distributions.erdos_renyi_kernel([(8, 6), (6, 4)], 0.75)
    dropped = 0
    for step, (proposed, params, state, after, new) in enumerate(
        walk(regrow(), transform=jax.jit), 1
    ):
        alone = kernels(optax.apply_updates(params, proposed))
        np.testing.assert_array_equal(
            after["a"]["bias"], params["a"]["bias"] + proposed["a"]["bias"]
        )
        assert counts(new.masks) == [48 - shares[0], 24 - shares[1]]
        assert jp.sparsity(new) == jp.sparsity(state) == 1 - KEPT / SIZE
        for i in range(2):
            was, now, got = (kernels(t)[i] for t in (state.masks, new.masks, after))
            assert np.all(got[~now] == 0)
            assert np.all(got[now & ~was] == 0)
            np.testing.assert_array_equal(got[was & now], alone[i][was & now])
            if step % EVERY == 0 and step <= EVERY * CYCLES:
                angle = np.pi * (step // EVERY) / (CYCLES + 1)
                drop = int(was.sum() * 0.15 * (1 + np.cos(angle)))
                weight, update = kernels(params)[i], kernels(proposed)[i]
                expected = exchanged(weight, update, was, drop).reshape(was.shape)
                np.testing.assert_array_equal(now, expected)
                dropped += np.sum(was & ~now)
            else:
                np.testing.assert_array_equal(now, was)
    log = jp.pruning_log(new)
    np.testing.assert_array_equal(log.pruned, log.repaired)
    assert log.pruned.sum() == dropped > 0
    np.testing.assert_allclose(log.sparsity, 1 - KEPT / SIZE, rtol=1e-6)
    assert not log.nans.any()


def test_params_are_sparse_from_the_first_update():
    params, opt_state = trained("regrow")
    assert sum(counts(params)) <= KEPT
    assert sum(counts(state_of(opt_state).masks)) == KEPT
    assert not jax.tree.leaves(state_of(opt_state).dormant)
    state = regrow().init(new_params())
    assert jp.sparsity(state) == 1 - KEPT / SIZE
    start = jp.masks.apply(new_params(), state.masks)
    assert sum(counts(start)) == KEPT


def test_set_grows_at_random_by_its_seed():
    def masks(seed):
        *_, (*_, new) = walk(regrow(grow="random", seed=seed), 2 * EVERY)
        assert sum(counts(new.masks)) == KEPT
        log = jp.pruning_log(new)
        np.testing.assert_array_equal(log.pruned, log.repaired)
        assert log.pruned.sum() > 0
        return np.concatenate([m.ravel() for m in kernels(new.masks)])

    first = masks(0)
    np.testing.assert_array_equal(first, masks(0))
    assert np.any(first != masks(1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scope": "leaf"}, [12, 6]),
        ({"scope": "global", "initial": jp.scores.magnitude}, None),
    ],
)
def test_first_masks(options, expected):
    params = new_params()
    masks = regrow(**options).init(params).masks
    if expected:
        assert counts(masks) == expected
    else:
        top = np.sort(np.abs(np.concatenate([w.ravel() for w in kernels(params)])))
        for m, w in zip(kernels(masks), kernels(params), strict=True):
            np.testing.assert_array_equal(m, np.abs(w) >= top[SIZE - KEPT])


def test_init_can_be_traced():
    link, params = regrow(), new_params()
    shapes = jax.eval_shape(link.init, params)
    state = jax.jit(link.init)(params)
    jax.tree.map(lambda x, s: x.shape == s.shape, state, shapes)
    jax.tree.map(np.testing.assert_array_equal, state, link.init(params))


def test_moving_masks_find_what_fixed_ones_miss():
    """A regression on 8 of 64 inputs, with 12 weights to spend."""
    rng = np.random.default_rng(2)
    x = jnp.asarray(rng.normal(size=(128, 64)), jnp.float32)
    truth = np.zeros((64, 1), np.float32)
    truth[rng.choice(64, 8, replace=False)] = 1.0
    y = x @ truth

    def loss(params):
        return jnp.mean(jnp.square(x @ params["kernel"] - y))

    def final_losses(**options):
        """With masks that move, and of the same link after its last cycle."""
        link = regrow(1 - 12 / 64, every=5, cycles=30, **options)

        def step(carry, _):
            params, state = carry
            updates = jax.tree.map(lambda g: -0.1 * g, jax.grad(loss)(params))
            updates, state = link.update(updates, state, params)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry: jax.lax.scan(step, carry, length=200)[0])
        params = {"kernel": jnp.zeros((64, 1))}
        state = link.init(params)
        late = state._replace(step=jnp.int32(5 * 30 + 1))
        return [float(loss(run((params, s))[0])) for s in (state, late)]

    moving, fixed = final_losses()
    at_random, _ = final_losses(grow="random")
    assert moving < 1e-3
    assert fixed > 2
    assert at_random < fixed / 2


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
import jaxprune as jp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))
rng = np.random.default_rng(0)
weights = [rng.normal(size=s).astype(np.float32) for s in ((16, 64), (64, 24))]
# Whole numbers, whose sums are the same in any order, and many of them equal.
grads = [rng.integers(-9, 10, w.shape).astype(np.float32) for w in weights]
links = [jp.drop_and_regrow(0.75, 1, 3, grow=g) for g in ("gradient", "random")]

@jax.jit
def step(params, states, grads):
    found = [link.update(grads, s, params) for link, s in zip(links, states)]
    return [state for _, state in found]

def masks(*specs):
    params = {f"{i}/kernel": put(x, s) for i, (x, s) in enumerate(zip(weights, specs))}
    given = {f"{i}/kernel": put(x, s) for i, (x, s) in enumerate(zip(grads, specs))}
    states = jax.jit(lambda params: [link.init(params) for link in links])(params)
    for _ in range(3):
        states = step(params, states, given)
    return [mask for state in states for mask in jax.tree.leaves(state.masks)]

specs = P("d"), P(None, "d")
alone, split = masks(P(), P()), masks(*specs)
for mask, expected in zip(split, alone, strict=True):
    assert mask.addressable_shards[0].data.size == mask.size // 8, mask.sharding
    np.testing.assert_array_equal(mask, expected)
"""


def test_same_masks_on_a_sharded_mesh():
    flags = "--xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-c", SHARDED]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"final sparsity must be in \[0, 1\), got 1.0"),
        ({"every": 0}, "every must be at least 1 update, got 0"),
        ({"cycles": 0}, "cycles must be at least 1, got 0"),
        ({"grow": "anywhere"}, "grow must be"),
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\], got 0.0"),
        ({"scope": (2, 4)}, "scope must be"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        regrow(**options)


def test_missing_params():
    params = new_params()
    with pytest.raises(ValueError, match="drop_and_regrow needs params"):
        regrow().update(params, regrow().init(params))
