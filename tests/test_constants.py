"""Dead channels are found by reasoning, folded where constant, else refused."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judging import error, example, group_of, random_variables, without

import jaxprune as jp
from jaxprune import Verdict


def batch_norm():
    return nn.BatchNorm(use_running_average=True)


class Units(nn.Module):
    """Stem, then one MobileNet unit: depthwise, pointwise."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(batch_norm()(nn.Conv(10, (3, 3), use_bias=False)(x)))
        x = nn.Conv(10, (3, 3), feature_group_count=10, use_bias=False)(x)
        x = nn.relu(batch_norm()(x))
        x = nn.relu(batch_norm()(nn.Conv(5, (1, 1), use_bias=False)(x)))
        return nn.Dense(3)(x.mean((1, 2)))


def test_the_rules_of_a_mobilenet_unit_follow():
    x, net = example(1, 6, 6, 3), Units()
    variables = random_variables(net, x)
    before, after = (variables["params"][f"BatchNorm_{i}"] for i in (0, 1))
    statistics = variables["batch_stats"]["BatchNorm_1"]
    after["scale"][0], after["bias"][0] = 0, 1.3  # γ_dw = 0, alive β_dw
    after["scale"][1], after["bias"][1] = 0, -1.3  # γ_dw = 0, dead β_dw
    before["scale"][2], before["bias"][2] = 0, -0.4  # γ_pw = 0, β_pw ≤ 0, and then
    after["bias"][2] = 2 + abs(after["scale"][2] * statistics["mean"][2]) / np.sqrt(
        statistics["var"][2]
    )  # … the depthwise BN makes a constant of the zero
    before["scale"][3], before["bias"][3] = 0, 0.7  # γ_pw = 0, β_pw > 0: borders differ
    after["scale"][3], after["bias"][3] = 1, 5
    variables["params"]["Conv_2"]["kernel"][:, :, 4] = 0  # nothing goes out
    variables["params"]["Conv_0"]["kernel"][..., 5] = 0  # only the shift is left
    before["bias"][5], after["bias"][5] = 3, 9
    coupling = jp.trace_coupling(net.apply, variables, x)
    judged = jp.judge(coupling, variables)
    groups = [group_of(coupling, "params/BatchNorm_0/scale", 0, i) for i in range(7)]
    exact, constant, borders = Verdict.EXACT, Verdict.FOLDABLE, Verdict.MAP
    assert judged.verdicts[groups].tolist() == [
        *[constant, exact, constant, borders, exact, borders, Verdict.REFUSED]
    ]
    assert "Conv_2/kernel at test_constants.py" in judged.explain(groups[6])

    dead = jp.dead_channels(coupling, variables)
    assert np.flatnonzero(dead[groups]).tolist() == [0, 1, 2, 4]
    plan = jp.make_plan(coupling, variables, dead=dead)
    fold = judged.fold(plan)
    assert set(fold.leaves) == {"batch_stats/BatchNorm_2/mean"}
    assert not fold.maps
    assert error(net.apply, variables, plan, x, fold) < 1e-6
    assert error(net.apply, variables, plan, x) > 1e-3

    plan = without(coupling, *groups[:6])
    assert judged.verdict(plan) == Verdict.MAP
    fold = jp.fold_constants(coupling, variables, plan)
    assert [m.shape for m in fold.maps.values()] == [(1, 6, 6, 5)]
    assert error(net.apply, variables, plan, x, fold) < 1e-6
    with pytest.raises(ValueError, match=r"1 groups .* are alive; .*Conv_2/kernel at"):
        judged.fold(without(coupling, *groups))


class Vgg(nn.Module):
    """Padded convolutions in a row; pooling of both kinds on the way."""

    strides: int = 1
    pool: str = "max"
    use_bias: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.relu(batch_norm()(nn.Conv(6, (3, 3))(x)))
        if self.pool == "max":
            x = nn.max_pool(x, (2, 2), (2, 2), "SAME")
        if self.pool == "average":
            x = nn.avg_pool(x, (3, 3), (2, 2), "SAME")
        kernel = (3, 3) if self.pool != "average" else (1, 1)
        x = nn.Conv(4, kernel, self.strides, use_bias=self.use_bias)(x)
        return nn.Dense(2)(nn.silu(x).reshape(x.shape[0], -1))


@pytest.mark.parametrize(
    ("options", "verdict", "maps"),
    [
        ({"strides": 2, "pool": "none"}, Verdict.MAP, [(1, 4, 4, 4)]),
        ({"pool": "max", "use_bias": True}, Verdict.MAP, [(1, 4, 4, 4)]),
        ({"pool": "average"}, Verdict.MAP, [(1, 4, 4, 4)]),
    ],
)
def test_constants_are_folded_borders_included(options, verdict, maps):
    x, net = example(1, 7, 7, 3), Vgg(**options)
    variables = random_variables(net, x)
    factors = variables["params"]["BatchNorm_0"]
    factors["scale"][1:4], factors["bias"][1:4] = 0, (-1, 2, 3)
    coupling = jp.trace_coupling(net.apply, variables, x)
    judged = jp.judge(coupling, variables)
    groups = [group_of(coupling, "params/BatchNorm_0/scale", 0, i) for i in range(5)]
    assert judged.verdicts[groups].tolist() == [
        *[Verdict.REFUSED, Verdict.EXACT, verdict, verdict, Verdict.REFUSED]
    ]
    assert jp.dead_channels(coupling, variables)[groups].sum() == 1
    plan = without(coupling, *groups[1:4])
    fold = judged.fold(plan)
    assert [m.shape for m in fold.maps.values()] == maps
    assert error(net.apply, variables, plan, x, fold) < 1e-6
    assert error(net.apply, variables, plan, x) > 1e-3


def test_a_map_finds_its_sum_for_inputs_of_another_type():
    def fn(variables, x):
        h = jnp.exp(x.astype(jnp.float32) @ variables["w"])
        return jnp.tanh(h @ variables["v"])

    variables = {"w": np.float32([[0, 1], [0, 2]]), "v": example(2, 2)}
    coupling = jp.trace_coupling(fn, variables, example(1, 2))
    plan = without(coupling, group_of(coupling, "w", 1, 0))
    fold = jp.fold_constants(coupling, variables, plan)
    assert fold.maps
    whole = np.arange(4, dtype=np.uint8).reshape(2, 2)
    small = jp.shrink(fn, plan, fold=fold)(plan.apply(variables), whole)
    np.testing.assert_allclose(small, fn(variables, whole), rtol=1e-6)
    with pytest.raises(ValueError, match="the function has 2: it was made for another"):
        jp.shrink(fn, plan, fold=jp.Fold({}, {7: np.ones(1)}))(
            plan.apply(variables), whole
        )


def test_a_map_is_for_one_input_size():
    def features(variables, x):
        x = jax.nn.relu(x @ variables["w"] + variables["b"])
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, variables["v"], (1, 1), "SAME", dimension_numbers=dims
        )

    variables = {"w": example(3, 4), "b": example(4), "v": example(3, 3, 4, 2)}
    variables["w"][:, 0], variables["b"][0] = 0, 1
    coupling = jp.trace_coupling(features, variables, example(1, 7, 7, 3))
    plan = without(coupling, group_of(coupling, "b", 0, 0))
    fold = jp.fold_constants(coupling, variables, plan)
    small = jp.shrink(features, plan, fold=fold)
    with pytest.raises(ValueError, match="fold the constants at this input size"):
        small(plan.apply(variables), example(1, 9, 9, 3))


def dense(variables, x):
    hidden = jnp.maximum(x @ variables["w"] + variables["b"], 0)
    return hidden @ variables["v"] + variables["c"]


def test_a_bias_takes_the_constant():
    variables = {"w": example(3, 6), "b": example(6), "v": example(6, 2)}
    variables["c"] = example(2)
    variables["w"][:, :2], variables["b"][:2] = 0, (2, -1)
    coupling = jp.trace_coupling(dense, variables, example(1, 3))
    judged = jp.judge(coupling, variables)
    groups = [group_of(coupling, "b", 0, i) for i in range(3)]
    assert judged.verdicts[groups].tolist() == [
        *[Verdict.FOLDABLE, Verdict.EXACT, Verdict.REFUSED]
    ]
    plan = without(coupling, *groups[:2])
    fold = judged.fold(plan)
    np.testing.assert_allclose(fold.leaves["c"], 2 * variables["v"][0], rtol=1e-6)
    assert error(dense, variables, plan, example(1, 3), fold) < 1e-6


def test_a_bias_used_twice_takes_nothing():
    def tied(variables, x):
        return dense(variables, x) * variables["c"]

    variables = {"w": np.zeros((3, 6), np.float32), "b": example(6) ** 2}
    variables |= {"v": example(6, 2), "c": example(2)}
    coupling = jp.trace_coupling(tied, variables, example(1, 3))
    assert (jp.judge(coupling, variables).verdicts[1:] == Verdict.MAP).all()
    plan = without(coupling, 1, 2, 3)
    fold = jp.fold_constants(coupling, variables, plan)
    assert [m.shape for m in fold.maps.values()] == [(1, 2)]
    assert error(tied, variables, plan, example(1, 3), fold) < 1e-6


def normalised(variables, x, kind="fast"):
    """Layer or group normalisation after a product and a relu."""
    x = jnp.maximum(x @ variables["w"] + variables["b"], 0)
    shape = x.shape
    if kind == "group":
        x = x.reshape(*shape[:-1], *variables["scale"].shape)
    mean = x.mean(-1, keepdims=True)
    if kind == "two_pass":
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
    else:
        variance = jnp.square(x).mean(-1, keepdims=True) - jnp.square(mean)
    x = (x - mean) / jnp.sqrt(variance + 1e-3) * variables["scale"] + variables["shift"]
    return x.reshape(shape) @ variables["v"]


@pytest.mark.parametrize(
    ("kind", "split"),
    [("fast", "inner"), ("two_pass", "inner"), ("group", "inner"), ("group", "outer")],
)
def test_normalisation_over_channels(kind, split):
    """Zero input: the fast variance does not notice, the two-pass one does."""
    fn, width = partial(normalised, kind=kind), (4, 2) if kind == "group" else (8,)
    variables = {"w": example(3, 8), "b": example(8), "v": example(8, 2)}
    variables |= {"scale": example(*width), "shift": example(*width)}
    x = example(2, 3)
    coupling = jp.trace_coupling(fn, variables, x, split=split)
    first = group_of(coupling, "b", 0, 0)
    members = coupling.leaves["b"].labels[0] == first
    assert members.sum() == (1 if kind != "group" else {"inner": 4, "outer": 2}[split])
    for name in ("scale", "shift"):
        variables[name].reshape(-1)[members] = 0
    variables["w"][:, members], variables["b"][members] = 0, -1
    plan = without(coupling, first)
    exact = jp.judge(coupling, variables).verdicts[first] == Verdict.EXACT
    assert exact == (kind != "two_pass") == (error(fn, variables, plan, x) < 1e-6)
    # Constant, but not zero: it counts in the mean, unless its whole group goes.
    variables["b"][members] = 1
    exact = jp.judge(coupling, variables).verdicts[first] == Verdict.EXACT
    assert exact == (split == "outer") == (error(fn, variables, plan, x) < 1e-6)
