"""Which slots live and die together: groups, policies, reasons, costs."""

import time
import tracemalloc

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import mlir

import jaxprune as jp
from jaxprune.coupling import registry

BATCH = jnp.ones((2, 6))


def partners(coupling, path, axis, index):
    """All slots in the group of one, as (path, axis, index)."""
    group = coupling.leaves[path].labels[axis][index]
    return {
        (p, a, int(i))
        for p, leaf in coupling.leaves.items()
        for a, labels in enumerate(leaf.labels)
        for i in np.flatnonzero(labels == group)
    }


def mlp(params, x):
    return jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]


def mlp_params(width=5):
    return {"w": jnp.ones((6, width)), "b": jnp.ones(width), "v": jnp.ones((width, 3))}


def test_a_hidden_unit_is_one_slot_of_each_leaf():
    coupling = jp.trace_coupling(mlp, mlp_params(), BATCH)
    assert coupling.size == 5
    assert partners(coupling, "b", 0, 3) == {("w", 1, 3), ("b", 0, 3), ("v", 0, 3)}
    assert not coupling.leaves["w"].labels[0].any()
    assert not coupling.leaves["v"].labels[1].any()


def test_costs_follow_what_is_kept():
    coupling = jp.trace_coupling(mlp, mlp_params(), BATCH)
    keep = np.array([True, True, False, True, False, True])
    assert coupling.params(keep) == 6 * 3 + 3 + 3 * 3
    assert coupling.macs(keep) == 2 * (6 * 3 + 3 * 3)
    everything = np.ones(6, bool)
    assert coupling.macs(everything) == jp.macs(mlp, mlp_params(), BATCH)


@pytest.mark.parametrize("keep", [np.ones(5, bool), np.ones(6), np.zeros(6, bool)])
def test_bad_keep_is_refused(keep):
    coupling = jp.trace_coupling(mlp, mlp_params(), BATCH)
    with pytest.raises(ValueError, match="keep"):
        coupling.params(keep)


def test_macs_of_scan_branches_and_convolutions():
    def fn(params, x):
        x = jax.lax.conv_general_dilated(
            x, params["k"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x, _ = jax.lax.scan(lambda x, _: (x @ params["s"], None), x, length=3)
        x = jax.lax.cond(x[0, 0, 0, 0] > 0, lambda x: x @ params["s"], jnp.tanh, x)
        return x @ params["o"]

    params = {"k": jnp.ones((3, 3, 2, 4)), "s": jnp.ones((4, 4)), "o": jnp.ones((4, 1))}
    x = jnp.ones((1, 6, 6, 2))
    coupling = jp.trace_coupling(lambda p, x: fn(p, x).sum(), params, x)
    full = 9 * (9 * 2 * 4 + 4 * 16 + 4)
    assert coupling.macs(np.ones(coupling.size + 1, bool)) == full
    assert jp.macs(fn, params, x) == full


def test_inputs_integers_protected_and_unused_leaves_stay():
    params = mlp_params() | {"average": jnp.ones(5), "count": jnp.zeros(5, int)}
    coupling = jp.trace_coupling(
        mlp, params, BATCH, protect=lambda path, leaf: path == "absent"
    )
    assert not coupling.leaves["average"].labels[0].any()
    assert not coupling.leaves["count"].labels[0].any()
    assert "used by none" in coupling.explain("average")
    assert "not a float" in coupling.explain("count")
    with pytest.raises(ValueError, match=r"nothing can be pruned[\s\S]*protected"):
        jp.trace_coupling(mlp, params, BATCH, protect=lambda path, leaf: path == "b")


def test_functions_are_coupled_jointly():
    params = mlp_params() | {"gate": jnp.ones(5)}

    def train(params, x):
        return jnp.tanh(x @ params["w"] + params["b"] * params["gate"]).sum(0)

    alone = jp.trace_coupling(mlp, params, BATCH)
    assert alone.size == 5
    assert not alone.leaves["gate"].labels[0].any()
    joint = jp.trace_coupling(
        mlp, params, BATCH, also=[(lambda p, x: train(p, x) @ p["v"], [BATCH])]
    )
    assert ("gate", 0, 2) in partners(joint, "b", 0, 2)
    with pytest.raises(ValueError, match="an output of the function"):
        jp.trace_coupling(mlp, params, BATCH, also=[(train, [BATCH])])


def test_results_that_renew_leaves_shrink_with_them():
    params = {"net": mlp_params(), "stats": {"mean": jnp.ones(5)}}

    def train(params, x):
        hidden = x @ params["net"]["w"] - params["stats"]["mean"]
        new = {"stats": {"mean": hidden.mean(0)}}
        return hidden @ params["net"]["v"], new

    coupling = jp.trace_coupling(train, params, BATCH)
    assert ("stats/mean", 0, 1) in partners(coupling, "net/w", 1, 1)
    with pytest.raises(ValueError, match="an output of the function"):
        jp.trace_coupling(lambda p, x: train(p, x)[1]["stats"]["mean"], params, BATCH)


@pytest.mark.parametrize("position", [0, 1])
def test_a_position_among_the_results_is_no_name(position):
    def fn(params, x):
        results = [jnp.tanh(x @ params[0]) @ params[1], x]
        return results[position], results[1 - position]

    params, x = [jnp.ones((8, 8)), jnp.ones((8, 8))], jnp.ones((8, 8))
    coupling = jp.trace_coupling(fn, params, x)
    assert coupling.size == 8
    assert not coupling.leaves["1"].labels[1].any()
    with pytest.raises(ValueError, match="an output of the function"):
        jp.trace_coupling(lambda w, x: x @ w, params[0], x)


def test_two_call_sites_of_one_cached_function_are_apart():
    layer = jax.jit(lambda w, x: jnp.tanh(x @ w))

    def fn(params, x):
        return layer(params["b"], layer(params["a"], x)).sum(-1)

    params = {"a": jnp.ones((6, 6)), "b": jnp.ones((6, 6))}
    coupling = jp.trace_coupling(fn, params, BATCH)
    assert coupling.size == 12
    assert partners(coupling, "a", 1, 4) == {("a", 1, 4), ("b", 0, 4)}


# Reshapes and groups: the two real choices.


def heads(params, x):
    q, k, v = ((x @ params[name]).reshape(2, 4, 3, 5).swapaxes(1, 2) for name in "qkv")
    weights = jax.nn.softmax(q @ k.swapaxes(-1, -2))
    return (weights @ v).swapaxes(1, 2).reshape(2, 4, 15) @ params["o"]


@pytest.mark.parametrize(("split", "groups"), [("inner", 2 * 5), ("outer", 3)])
def test_heads_or_their_widths(split, groups):
    params = {name: jnp.ones((6, 15)) for name in "qkv"} | {"o": jnp.ones((15, 6))}
    coupling = jp.trace_coupling(heads, params, jnp.ones((2, 4, 6)), split=split)
    assert coupling.size == groups  # queries with keys, values with the output


def grouped_convolution(x, kernel, groups):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@pytest.mark.parametrize(("grouped", "groups"), [("within", 3 + 4), ("whole", 2)])
def test_grouped_convolutions_lose_channels_within_groups_or_whole(grouped, groups):
    def fn(params, x):
        x = jnp.tanh(grouped_convolution(x @ params["w"], params["k"], 2))
        return x @ params["v"]

    params = {
        "w": jnp.ones((2, 6)),
        "k": jnp.ones((3, 3, 3, 8)),
        "v": jnp.ones((8, 1)),
    }
    x = jnp.ones((1, 4, 4, 2))
    coupling = jp.trace_coupling(fn, params, x, grouped=grouped)
    assert coupling.size == groups


def test_depthwise_multiplier_follows_its_input():
    def fn(params, x):
        x = grouped_convolution(x @ params["w"], params["k"], 4)
        return x @ params["v"]

    params = {
        "w": jnp.ones((2, 4)),
        "k": jnp.ones((3, 3, 1, 8)),
        "v": jnp.ones((8, 1)),
    }
    coupling = jp.trace_coupling(fn, params, jnp.ones((1, 4, 4, 2)))
    assert coupling.size == 4
    assert partners(coupling, "w", 1, 1) == {
        ("w", 1, 1),
        *(("k", 3, i) for i in (2, 3)),
        *(("v", 0, i) for i in (2, 3)),
    }


@pytest.mark.parametrize("channels_last", [True, False])
def test_flatten_ties_a_channel_to_its_positions(channels_last):
    def fn(params, x):
        x = x @ params["w"]
        x = x if channels_last else x.transpose(0, 3, 1, 2)
        return x.reshape(len(x), -1) @ params["v"]

    params = {"w": jnp.ones((2, 4)), "v": jnp.ones((9 * 4, 1))}
    coupling = jp.trace_coupling(fn, params, jnp.ones((1, 3, 3, 2)))
    at = [1 + 4 * p for p in range(9)] if channels_last else range(9, 18)
    want = {("w", 1, 1), *(("v", 0, i) for i in at)}
    assert partners(coupling, "w", 1, 1) == want


def test_many_to_many_reshape_goes_by_way_of_one_axis():
    def fn(params, x):
        x = (x @ params["w"]).reshape(2, 2, 6).reshape(2, 4, 3)
        return jnp.einsum("bij,j->b", x, params["v"])

    params = {"w": jnp.ones((6, 12)), "v": jnp.ones(3)}
    coupling = jp.trace_coupling(fn, params, BATCH)
    assert coupling.size == 3
    want = {("v", 0, 1), *(("w", 1, i) for i in (1, 4, 7, 10))}
    assert partners(coupling, "v", 0, 1) == want


@pytest.mark.parametrize("wrong", [{"split": "middle"}, {"grouped": "both"}])
def test_unknown_policies_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be .* got"):
        jp.trace_coupling(mlp, mlp_params(), BATCH, **wrong)


@pytest.mark.parametrize(
    ("method", "groups"),
    [("add", 3), ("subtract", 3), ("set", 0), ("multiply", 0), ("max", 0), ("min", 0)],
)
def test_rows_that_are_added_may_go_others_leave_a_mark(method, groups):
    def fn(params, x):
        start = jnp.full(6, 3.0).at[jnp.array([0, 2, 3])]
        vector = getattr(start, method)(params["rows"])
        return x @ vector + jnp.tanh(x @ params["w"]) @ params["v"].sum(1)

    params = {"rows": jnp.ones(3), "w": jnp.ones((6, 2)), "v": jnp.ones((2, 1))}
    coupling = jp.trace_coupling(fn, params, BATCH)
    assert np.count_nonzero(coupling.leaves["rows"].labels[0]) == groups
    assert not any(reason.unknown for reason in coupling.frozen)


@pytest.mark.parametrize("function", [jnp.tanh, jnp.log2, jax.nn.gelu, jnp.exp2])
def test_a_gradient_frees_what_its_function_does(function):
    def loss(params, x):
        return (function(x @ params["w"] + params["b"]) @ params["v"]).sum()

    def gradient(variables, x):
        return {"net": jax.grad(loss)(variables["net"], x)}

    coupling = jp.trace_coupling(gradient, {"net": mlp_params()}, BATCH)
    assert coupling.size == 5 + 3
    assert not any(reason.unknown for reason in coupling.frozen)


# Reasons.


def test_a_reason_names_primitive_line_and_leaf():
    def fn(params, x):
        x = jnp.sort(x @ params["w"]) @ params["v"]
        return jnp.tanh(x @ params["u"]).sum(-1)

    params = {"w": jnp.ones((6, 5)), "v": jnp.ones((5, 4)), "u": jnp.ones((4, 3))}
    coupling = jp.trace_coupling(fn, params, BATCH)
    (reason,) = (f for f in coupling.frozen if f.primitive == "sort")
    assert reason.source.startswith("test_coupling.py:")
    assert reason.leaves == ("v", "w")
    assert reason.slots == 10
    assert not reason.unknown
    assert coupling.size == 4 + 3
    assert "sort at test_coupling.py:" in coupling.explain("w")
    assert "axis 1: 0 of 5" in coupling.explain("w")
    assert "sort" not in coupling.explain("u")
    text = str(coupling)
    assert "7 groups; 11 of 27 slots in 3 leaves can be pruned (40.7%)" in text
    with pytest.raises(ValueError, match="no leaf 'x'; there are"):
        coupling.explain("x")


def test_reductions_that_need_all_of_an_axis_freeze_it():
    params = {"w": jnp.ones((6, 5))}
    for reduce in (jnp.max, jnp.argmax, jnp.prod, jnp.cumsum, jax.nn.softmax):
        with pytest.raises(ValueError, match="nothing can be pruned"):
            jp.trace_coupling(
                lambda p, x, f=reduce: f(x @ p["w"], axis=-1),
                params,
                BATCH,
            )
    mean = jp.trace_coupling(lambda p, x: (x @ p["w"]).mean(-1), params, BATCH)
    assert mean.size == 5


@pytest.fixture
def twice(monkeypatch):
    """A primitive that nobody knows: doubles every entry."""
    primitive = jex.Primitive("twice_of_test")
    primitive.def_impl(lambda x: 2 * x)
    primitive.def_abstract_eval(lambda x: x)
    lowered = mlir.lower_fun(lambda x: 2 * x, multiple_results=False)
    mlir.register_lowering(primitive, lowered)
    yield primitive
    registry._RULES.pop("twice_of_test", None)


def test_an_unknown_primitive_freezes_its_own_component_until_it_has_a_rule(twice):
    def fn(params, x):
        x = twice.bind(x @ params["w"]) @ params["v"]
        return jnp.tanh(x @ params["u"]).sum(-1)

    params = {"w": jnp.ones((6, 5)), "v": jnp.ones((5, 4)), "u": jnp.ones((4, 3))}
    coupling = jp.trace_coupling(fn, params, BATCH)
    (reason,) = (f for f in coupling.frozen if f.unknown)
    assert coupling.frozen[0] == reason
    assert (reason.primitive, reason.slots) == ("twice_of_test", 10)
    assert reason.source.startswith("test_coupling.py:")
    assert reason.leaves == ("v", "w")
    assert "only missing rules" in str(coupling)
    assert coupling.size == 4 + 3

    def alike(node, relation):
        relation.tie_values(node.inputs[0], node.outputs[0])

    jp.coupling.register("twice_of_test", constrain=alike)
    thawed = jp.trace_coupling(fn, params, BATCH)
    assert thawed.size == 5 + 4 + 3
    assert not any(f.unknown for f in thawed.frozen)
    plan = jp.Plan.from_keep(thawed, np.arange(13) != 2)
    small = plan.apply(params)
    assert jp.shrink(fn, plan)(small, BATCH).shape == (2,)


def test_variables_must_be_arrays():
    with pytest.raises(ValueError, match="must hold arrays, got 3"):
        jp.trace_coupling(lambda v, x: x, {"a": 3}, BATCH)


def layers(count):
    """The coupling of a chain of so many layers."""

    def fn(params, x):
        for i, w in enumerate(params):
            x = jax.nn.relu(x @ w)
            x = x.reshape(2, 4, 8).reshape(2, 32) if i % 2 else x
        return x.sum(-1)

    params = [jax.ShapeDtypeStruct((32, 32), jnp.float32)] * count
    return jp.trace_coupling(fn, params, jnp.ones((2, 32)))


@pytest.mark.slow
def test_a_thousand_layers_in_seconds():
    start = time.process_time()
    assert layers(1000).size > 8 * 1000
    assert time.process_time() - start < 15


@pytest.mark.slow
def test_memory_grows_as_the_layers_do():
    def peak(count):
        tracemalloc.start()
        layers(count)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    layers(2)
    assert peak(1000) < 2.5 * peak(500)
