"""The small function: under every transformation, at other shapes, and its errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coupled import case, close, images, randomise

import jaxprune as jp


def net(params, x):
    x = jax.lax.conv_general_dilated(
        x, params["k"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = jax.nn.relu(x * params["scale"] + params["shift"])
    x = jax.checkpoint(lambda x: jnp.tanh(x @ params["w"]))(x)
    return x.mean((1, 2)) @ params["v"]


SHAPES = {
    "k": (3, 3, 2, 8),
    "scale": (8,),
    "shift": (8,),
    "w": (8, 6),
    "v": (6, 3),
}
PARAMS = randomise({n: jax.ShapeDtypeStruct(s, np.float32) for n, s in SHAPES.items()})
X = images(4, 5, 5, 2)


@pytest.fixture(scope="module")
def shrunk():
    result = case(net, PARAMS, X)
    return result, jax.jit(net)(result.dense, X)


def test_equal_to_the_dense_one(shrunk, compiled):
    result, want = shrunk
    close(compiled(result.fn)(result.small, X), want)


def test_other_batch_and_image_sizes(shrunk):
    result, want = shrunk
    close(result.fn(result.small, X[:1]), want[:1])
    wide = images(2, 7, 4, 2)
    close(result.fn(result.small, wide), net(result.dense, wide))


def test_vmap_over_inputs_and_over_variables(shrunk):
    result, want = shrunk
    close(jax.vmap(result.fn, (None, 0))(result.small, X[:, None])[:, 0], want)
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), result.small)
    close(jax.vmap(result.fn, (0, None))(twice, X)[1], want)


def test_gradients_are_those_of_the_kept_slots(shrunk):
    result, _ = shrunk
    want = jax.jit(jax.grad(lambda p: (net(p, X) ** 2).sum()))(result.dense)
    got = jax.jit(jax.grad(lambda p: (result.fn(p, X) ** 2).sum()))(result.small)
    close(got, result.plan.apply(want))


def test_forward_mode_and_transposition_agree(shrunk):
    result, _ = shrunk
    points = (result.small,)

    @jax.jit
    def products(u, v):
        def fn(p):
            return result.fn(p, X)

        _, forward = jax.jvp(fn, points, (u,))
        (backward,) = jax.vjp(fn, *points)[1](v)
        pairs = zip(jax.tree.leaves(u), jax.tree.leaves(backward), strict=True)
        return (forward * v).sum(), sum((a * b).sum() for a, b in pairs)

    close(*products(jax.tree.map(jnp.cos, result.small), images(4, 3)))


def test_remat_scan_and_nesting(shrunk):
    result, want = shrunk
    close(jax.checkpoint(result.fn)(result.small, X), want)
    _, outputs = jax.lax.scan(
        lambda _, x: (None, result.fn(result.small, x[None])[0]), None, X
    )
    close(outputs, want)


def test_export(shrunk):
    result, want = shrunk
    exported = jax.export.export(jax.jit(result.fn))(result.small, X)
    close(exported.call(result.small, X), want)


def test_shrinks_twice(shrunk):
    result, _ = shrunk
    again = case(result.fn, result.small, X, keep=lambda c: np.arange(c.size + 1) != 1)
    close(again.fn(again.small, X), result.fn(again.dense, X))


def test_traces_once_for_each_shape():
    calls = []

    def counted(params, x):
        calls.append(x.shape)
        return net(params, x)

    result = case(counted, PARAMS, X)
    calls.clear()
    for x in (X[:1], X[:2], X[:1], X[:2]):
        result.fn(result.small, x)
    assert calls == [(1, 5, 5, 2), (2, 5, 5, 2)]


def test_follows_the_precision_of_products(shrunk):
    result, _ = shrunk

    def found(precision):
        with jax.default_matmul_precision(precision):
            return str(jax.make_jaxpr(result.fn)(result.small, X))

    assert "HIGHEST" not in found("default")
    assert "HIGHEST" in found("float32")


def test_closes_over_tracers_of_an_outer_function(shrunk):
    result, want = shrunk

    @jax.jit
    def outer(params, x, offset):
        small_fn = jp.shrink(lambda p, x: net(p, x - offset), result.plan)
        return small_fn(params, x + offset)

    close(outer(result.small, X, 2.0), want)


def test_closed_over_arrays_are_sliced_like_leaves():
    position = images(8)

    def fn(params, x):
        return jnp.tanh(x @ params["w"] + position) @ params["v"]

    params = {"w": images(2, 8), "v": images(8, 3)}
    result = case(fn, params, images(4, 2))
    close(result.fn(result.small, images(4, 2)), fn(result.dense, images(4, 2)))


def test_no_inputs_weak_types_keys_and_structures():
    def fn(variables, batch, rate, key):
        x = batch["x"] @ variables[0]
        x = x * jax.random.bernoulli(key, rate, x.shape)
        return {"y": x @ variables[1], "none": None}

    variables = [images(2, 8), images(8, 3)]
    inputs = ({"x": images(4, 2)}, 0.5, jax.random.key(3))
    result = case(fn, variables, *inputs)
    close(result.fn(result.small, *inputs), fn(result.dense, *inputs))


# Errors


def test_dense_variables_are_refused(shrunk):
    with pytest.raises(ValueError, match=r"'k' has shape .* call with plan.apply"):
        shrunk[0].fn(PARAMS, X)


def test_foreign_leaves_are_refused(shrunk):
    result, _ = shrunk
    with pytest.raises(ValueError, match="the plan knows no leaf 'extra'"):
        result.fn(result.small | {"extra": jnp.ones(3)}, X)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"w": {0: (1,)}}, "live and die with it"),
        ({"v": {1: (2,)}}, "'v' needs index 2 of axis 1: an output of the function"),
        ({"k": {2: (0,)}}, "'k' needs index 0 of axis 2: an input of the function"),
        ({"k": {0: (1,)}}, "conv_general_dilated at test_shrink.py:.*window"),
    ],
)
def test_plans_that_do_not_suit_the_function_are_refused(removed, message):
    plan = jp.Plan(SHAPES, removed)
    with pytest.raises(ValueError, match=message):
        jp.shrink(net, plan)(plan.apply(PARAMS), X)
