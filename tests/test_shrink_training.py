"""Training goes on: custom derivatives, statistics, dropout, optimizer state."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from coupled import case, close, images, init, zeroed

import jaxprune as jp

X = images(4, 6)


def two_layers(activation):
    params = {"w": images(6, 5), "v": images(5, 2, seed=2)}
    params["w"][:, 1] = 0  # an activation at exactly zero

    def fn(params, x):
        return (activation(x @ params["w"]) @ params["v"]).sum()

    return fn, params


@jax.custom_jvp
def rounded(x):
    """Straight through: the gradient of x² / 2, not that of rounding."""
    return jnp.round(x)


@rounded.defjvp
def _(primals, tangents):
    return rounded(*primals), tangents[0] * primals[0]


@jax.custom_vjp
def clipped(x):
    return jnp.sin(x)


clipped.defvjp(
    lambda x: (clipped(x), (x, jnp.cos(x))),
    lambda kept, g: (jnp.clip(g * kept[1], -0.1, 0.1) + 0 * kept[0],),
)


@jax.custom_vjp
def taken(x, index):
    """With an integer input, which has no cotangent."""
    return x * (index + 1)


taken.defvjp(lambda x, i: (taken(x, i), i), lambda i, g: (7.0 * g * i, None))

HALVES = np.float32([[0.5], [0.25], [2], [1]])


@jax.custom_vjp
def scaled(x):
    """Closes over a constant, which has no cotangent either."""
    return x * HALVES


scaled.defvjp(lambda x: (scaled(x), None), lambda _, g: (3.0 * g,))

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
    "logsumexp": lambda x: x - jax.nn.logsumexp(x, axis=0, keepdims=True),
    "straight through": rounded,
    "clipped": clipped,
    "integer input": lambda x: taken(x, jnp.arange(4)[:, None] + 0 * x.astype(int)),
    "closed over": scaled,
    "in a scan": lambda x: jax.lax.fori_loop(0, 2, lambda _, c: rounded(c), x),
    "in remat": jax.checkpoint(lambda x: clipped(jax.nn.relu(x))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_first_derivatives_are_the_custom_ones(name):
    fn, params = two_layers(ACTIVATIONS[name])
    result = case(fn, params, X, keep=lambda c: ~np.isin(np.arange(c.size + 1), [1, 4]))
    want = jax.jit(jax.value_and_grad(fn))(result.dense, X)
    got = jax.jit(jax.value_and_grad(result.fn))(result.small, X)
    close(got, (want[0], result.plan.apply(want[1])))


@pytest.mark.parametrize("name", ["relu", "straight through"])
def test_second_derivatives_too(name):
    fn, params = two_layers(ACTIVATIONS[name])
    result = case(fn, params, X)

    def curvature(f, params):
        direction = jax.tree.map(jnp.sin, params)
        return jax.jvp(jax.grad(lambda p: f(p, X) ** 2), (params,), (direction,))[1]

    want = jax.jit(lambda p: curvature(fn, p))(result.dense)
    got = jax.jit(lambda p: curvature(result.fn, p))(result.small)
    close(got, result.plan.apply(want))


def test_a_rule_that_mixes_channels_freezes_them():
    @jax.custom_vjp
    def identity(x):
        return x

    identity.defvjp(lambda x: (x, None), lambda _, g: (jnp.sort(g, axis=-1),))
    fn, params = two_layers(identity)
    coupling = jp.trace_coupling(lambda p, x: fn(p, x), params, X)
    assert not coupling.leaves["w"].labels[1].any()
    assert "sort at test_shrink_training.py" in coupling.explain("w")


class Net(nn.Module):
    """Convolution, batch norm, dropout, dense layers."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(6, (3, 3), use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.8)(x))
        x = nn.Conv(8, (3, 3), 2, feature_group_count=2, use_bias=False)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.8)(x))
        x = x.reshape(len(x), -1)
        x = nn.Dropout(0.4, deterministic=not train)(x)
        return nn.Dense(3)(x)


IMAGES = images(8, 6, 6, 2)
LABELS = np.arange(8) % 3
TX = optax.chain(optax.add_decayed_weights(1e-3), optax.sgd(0.01, momentum=0.9))


def loss(variables, x, key):
    logits, renewed = Net().apply(
        variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)
    return cross_entropy.mean(), renewed["batch_stats"]


def trajectory(loss, variables, mask, steps=10):
    """Variables and optimizer state after some steps, held on the mask."""

    @jax.jit
    def run(params, stats):
        def step(carry, key):
            params, stats, state = carry

            def objective(params):
                return loss({"params": params, "batch_stats": stats}, IMAGES, key)

            (value, stats), grads = jax.value_and_grad(objective, has_aux=True)(params)
            updates, state = TX.update(mask(grads), state, params)
            return (optax.apply_updates(params, updates), stats, state), value

        keys = jax.random.split(jax.random.key(0), steps)
        return jax.lax.scan(step, (params, stats, TX.init(params)), keys)

    (params, stats, state), values = run(variables["params"], variables["batch_stats"])
    return {"params": params, "batch_stats": stats}, state, values


def test_ten_steps_equal_those_of_the_masked_dense_network():
    variables = init(Net(), IMAGES, train=False)
    key = jax.random.key(0)
    result = case(
        lambda v, x: Net().apply(v, x, train=False),
        variables,
        IMAGES,
        also=[(loss, [IMAGES, key])],
    )
    whole, dense_state, dense_values = trajectory(
        loss, result.dense, lambda g: zeroed({"params": g}, result.plan)["params"]
    )
    small, state, values = trajectory(
        jp.shrink(loss, result.plan), result.small, lambda g: g
    )
    close(values, dense_values)
    kept = result.plan.apply(whole)
    close(small["params"], kept["params"])
    close(small["batch_stats"], kept["batch_stats"])
    close(state, result.plan.apply(dense_state), 1e-5)
    evaluated = result.fn(small, IMAGES)
    removed = zeroed(whole, result.plan)
    close(evaluated, Net().apply(removed, IMAGES, train=False))


@pytest.mark.parametrize("grouped", ["within", "whole"])
def test_differentiated_inside_the_function(grouped):
    """Gradients return at their small shapes, and tie no more than the loss does."""

    def convolve(x, kernel, groups=1):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=layout,
            feature_group_count=groups,
        )

    def objective(params, x):
        x = jax.nn.relu(convolve(x, params["k"]))
        x = nn.max_pool(convolve(x, params["depthwise"], 6), (2, 2), (2, 2))
        x = jnp.tanh(convolve(x, params["grouped"], 2))
        return ((x.reshape(len(x), -1) @ params["v"]) ** 2).sum()

    params = {
        "k": images(3, 3, 2, 6),
        "depthwise": images(3, 3, 1, 6, seed=2),
        "grouped": images(3, 3, 3, 8, seed=3),
        "v": images(72, 3, seed=4) / 100,
    }
    gradients = jax.grad(objective)
    result = case(gradients, params, IMAGES, grouped=grouped)
    want = jax.jit(gradients)(result.dense, IMAGES)
    close(jax.jit(result.fn)(result.small, IMAGES), result.plan.apply(want))
    alone = jp.trace_coupling(objective, params, IMAGES, grouped=grouped)
    assert result.coupling.size == alone.size
