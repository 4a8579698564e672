import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune import cost

SHAPE = jax.ShapeDtypeStruct


def f32(*shape):
    return SHAPE(shape, jnp.float32)


def _conv(x, w, stride=1, padding="SAME", **options):
    return lax.conv_general_dilated(
        x,
        w,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        **options,
    )


def test_parameters_and_nonzeros_count_leaves_of_any_dtype():
    tree = {
        "a": jnp.array([0.0, -0.0, 1.0, jnp.nan]),
        "b": [jnp.zeros((2, 3), jnp.bfloat16), np.ones(2, np.int32)],
        "empty": jnp.zeros((0, 5)),
        "scalar": jnp.float32(2),
        "none": None,
    }
    assert jp.parameters(tree) == 4 + 6 + 2 + 1
    assert jp.nonzeros(tree) == 2 + 0 + 2 + 1
    assert jp.parameters({"a": f32(3, 4)}) == 12


def test_matrix_products():
    assert jp.macs(jnp.matmul, f32(7, 3, 4), f32(7, 4, 5)) == 7 * 3 * 4 * 5

    def einsum(a, b):
        return jnp.einsum("bhqd,bhkd->bhqk", a, b)

    assert jp.macs(einsum, f32(2, 4, 5, 8), f32(2, 4, 6, 8)) == 2 * 4 * 5 * 6 * 8
    assert jp.macs(lambda x: jnp.tanh(x) * x + 1, f32(3)) == 0


@pytest.mark.parametrize(
    ("groups", "stride", "padding"),
    list(itertools.product([1, 2, 4], [1, 2], ["SAME", "VALID"])),
)
def test_convolutions_against_a_brute_count(groups, stride, padding):
    x, w = f32(2, 9, 8, 4), f32(3, 2, 4 // groups, 8)

    def f(x, w):
        return _conv(x, w, stride, padding, feature_group_count=groups)

    outputs = math.prod(jax.eval_shape(f, x, w).shape)
    assert jp.macs(f, x, w) == outputs * 3 * 2 * (4 // groups)


def test_layout_does_not_matter():
    layouts = ("NCHW", "OIHW", "NCHW")

    def f(x, w):
        return lax.conv_general_dilated(x, w, (2, 1), "SAME", dimension_numbers=layouts)

    def g(x, w):
        return lax.conv_general_dilated(
            x, w, (2, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    counts = jp.macs(f, f32(2, 4, 9, 8), f32(6, 4, 3, 5))
    assert counts == jp.macs(g, f32(2, 9, 8, 4), f32(3, 5, 4, 6))


def test_transposed_convolution_counts_inputs():
    def f(x, w):
        return lax.conv_transpose(x, w, (2, 2), "SAME")

    assert jp.macs(f, f32(2, 5, 5, 4), f32(3, 3, 4, 6)) == 2 * 25 * 4 * 9 * 6


def test_gradients_of_a_strided_convolution_cost_what_it_costs():
    x, w = f32(2, 8, 8, 4), f32(3, 3, 4, 6)

    def f(x, w):
        return _conv(x, w, 2)

    forward = jp.macs(f, x, w)
    for argument in (0, 1):
        gradient = jax.grad(lambda *a: f(*a).sum(), argument)
        assert jp.macs(gradient, x, w) == 2 * forward  # forward once, too


def test_scan_multiplies_and_inner_functions_count():
    def body(c, w):
        return (jax.checkpoint(jax.jit(jnp.matmul))(c, w), None)

    def f(c, ws):
        return lax.scan(body, c, ws)[0]

    assert jp.macs(f, f32(2, 3), f32(5, 3, 3)) == 5 * 2 * 3 * 3

    def loop(x, w):
        return lax.fori_loop(0, 4, lambda _, x: x @ w, x)

    assert jp.macs(loop, f32(2, 3), f32(3, 3)) == 4 * 2 * 3 * 3


def test_custom_derivatives_count_once():
    @jax.custom_vjp
    def dense(x, w):
        return x @ w

    dense.defvjp(lambda x, w: (x @ w, (x, w)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    assert jp.macs(dense, f32(2, 3), f32(3, 5)) == 30
    assert jp.macs(jax.grad(lambda x, w: dense(x, w).sum()), f32(2, 3), f32(3, 5)) == 90


def test_the_dearest_branch_counts():
    def f(p, x, w):
        return lax.cond(p, lambda: x @ w, lambda: x @ w @ w)

    assert jp.macs(f, SHAPE((), bool), f32(2, 3), f32(3, 3)) == 2 * 18


def test_a_convolution_spelled_out_on_one_platform_still_counts():
    def shifted(x, w):
        return sum(jnp.roll(x, i, 1) * w[i] for i in range(3))

    def depthwise(x, w):
        return lax.platform_dependent(
            x,
            w,
            cpu=shifted,
            default=lambda x, w: _conv(x, w[:, None, None], feature_group_count=4),
        )

    assert jp.macs(depthwise, f32(1, 6, 6, 4), f32(3, 4)) == 36 * 4 * 3


def test_shard_map_counts_all_devices():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.P("data")
    f = jax.shard_map(
        lambda x: x @ jnp.ones((3, 5)), mesh=mesh, in_specs=spec, out_specs=spec
    )
    assert jp.macs(f, f32(4, 3)) == 4 * 3 * 5


def test_a_while_loop_that_contracts_is_refused():
    def f(x):
        return lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="while_loop"):
        jp.macs(f, f32(3, 3))

    def harmless(x):
        return lax.while_loop(lambda x: x.sum() < 9, lambda x: 2 * x, x)

    assert jp.macs(harmless, f32(3)) == 0


def test_python_values_are_constants():
    def f(x, train, options):
        return x @ x if options["name"] == "a" and train else x

    assert jp.macs(f, f32(3, 3), True, {"name": "a", "unhashable": [1]}) == 27


def test_mobilenet_as_published():
    from experiments.models.mobilenet import MobileNetV1

    model, x = MobileNetV1(), f32(1, 32, 32, 3)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    assert jp.parameters(variables["params"]) == 3_217_226
    assert round(jp.macs(model.apply, variables, x) / 1e6, 2) == 46.35


def test_latency_measures_compiled_calls():
    measured = jp.latency(jnp.dot, np.ones((4, 3)), jnp.ones((3, 5)), repeats=5)
    assert 0 < measured.low_ms <= measured.median_ms <= measured.high_ms
    assert measured.repeats == 5
    assert measured.compile_s > 0
    assert "CPU" in measured.device
    assert measured.device in str(measured)


def test_latency_survives_donation_and_odd_arguments():
    step = jax.jit(lambda tree, x: {"w": tree["w"] + x}, donate_argnums=0)
    tree = {"w": jnp.ones(3)}
    jp.latency(step, tree, jnp.ones(3), repeats=2)
    assert tree["w"].sum() == 3

    def f(x, options):
        return x * len(options["list"])

    assert jp.latency(f, jnp.ones(3), {"list": [1, 2]}, repeats=1).repeats == 1
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        jp.latency(f, jnp.ones(3), {"list": []}, repeats=0)


def test_device_name_is_one_line():
    assert cost.device_name()
    assert "\n" not in cost.device_name()
