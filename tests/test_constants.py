"""Dead channels are found by reasoning, folded where constant, else refused."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import Verdict


def random_variables(module, x, seed=0):
    """Everything random, statistics and shifts too; variances positive."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map_with_path(
        lambda path, s: (
            rng.normal(size=s.shape).astype(np.float32) ** 2 + 0.5
            if path[-1].key == "var"
            else rng.normal(size=s.shape).astype(np.float32)
        ),
        shapes,
    )


def example(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def group_of(coupling, path, axis, index):
    return int(coupling.leaves[path].labels[axis][index])


def without(coupling, *groups):
    keep = np.ones(coupling.size + 1, bool)
    keep[list(groups)] = False
    return jp.Plan.from_keep(coupling, keep)


def error(fn, variables, plan, x, fold=None):
    """max |dense − small|, relative to the largest result; another batch size."""
    x = np.concatenate([x, 2 - x, x**2])
    dense = jax.jit(fn)(variables, x)
    small_fn = jax.jit(jp.shrink(fn, plan, fold=fold))
    small = small_fn(plan.apply(variables, fold=fold), x)
    return float(jnp.abs(dense - small).max() / jnp.abs(dense).max())


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


def platform_dense(x, w):
    return jax.lax.platform_dependent(
        x, w, cpu=lambda x, w: jnp.einsum("...i,io->...o", x, w), default=jnp.matmul
    )


@jax.custom_vjp
def custom_dense(x, w):
    return x @ w


custom_dense.defvjp(
    lambda x, w: (x @ w, (x, w)),
    lambda saved, g: (g @ saved[1].T, jnp.einsum("...i,...o->io", saved[0], g)),
)


@pytest.mark.parametrize(
    "product", [platform_dense, custom_dense, jax.checkpoint(jnp.matmul)]
)
def test_calls_are_seen_through(product):
    def fn(variables, x):
        hidden = jax.nn.relu(product(x, variables["w"]) + variables["b"])
        return (
            jnp.tanh(product(hidden, variables["v"]) + variables["c"]) @ variables["o"]
        )

    variables = {"w": example(3, 6), "b": example(6), "v": example(6, 5)}
    variables |= {"c": example(5), "o": example(5, 2)}
    variables["w"][:, 2], variables["b"][2] = 0, 2
    coupling = jp.trace_coupling(fn, variables, example(1, 3))
    judged = jp.judge(coupling, variables)
    dead = group_of(coupling, "b", 0, 2)
    assert judged.verdicts[dead] == Verdict.FOLDABLE
    assert (np.delete(judged.verdicts, dead) == Verdict.REFUSED).all()
    plan = without(coupling, dead)
    fold = judged.fold(plan)
    assert set(fold.leaves) == {"c"}
    assert error(fn, variables, plan, example(1, 3), fold) < 1e-6


def folded(fn):
    """The fold of two constant channels of three, found to make up for them."""
    variables = {"w": np.zeros((2, 3), np.float32), "v": example(3, 4)}
    variables |= {"b": np.float32([0.5, 0.5, 1]), "c": example(4)}
    variables["w"][:, 2] = 1
    coupling = jp.trace_coupling(fn, variables, example(1, 2))
    groups = [group_of(coupling, "b", 0, i) for i in range(2)]
    plan, judged = without(coupling, *groups), jp.judge(coupling, variables)
    fold = judged.fold(plan)
    assert error(fn, variables, plan, example(1, 2), fold) < 1e-6
    return fold


def hidden(variables, x):
    return jnp.exp(x @ variables["w"] + variables["b"])


def test_a_conditional_in_a_conditional_folds_once():
    def fn(variables, x):
        def inner(h, w):
            return jax.lax.cond(x[0, 0] > 0, jnp.matmul, jnp.matmul, h, w)

        h = hidden(variables, x)
        y = jax.lax.cond(x[0, 1] > 0, inner, inner, h, variables["v"])
        return y + variables["c"]

    assert folded(fn).maps


@pytest.mark.parametrize("times", [1, 2])
def test_a_bias_that_leaves_a_branch_is_used_there(times):
    def fn(variables, x):
        first, *_ = jax.lax.cond(
            x[0, 0] > 0,
            lambda b: (b,) * times,
            lambda b: (jnp.zeros_like(b),) * times,
            variables["c"],
        )
        return hidden(variables, x) @ variables["v"] + variables["c"] + 10 * first

    assert not folded(fn).leaves


def test_a_sum_that_leaves_a_branch_twice_has_no_bias():
    def fn(variables, x):
        def twice(h, w):
            return (h @ w,) * 2

        h = hidden(variables, x)
        z, y = jax.lax.cond(x[0, 0] > 0, twice, twice, h, variables["v"])
        return (y + variables["c"]) * jnp.sin(z)

    assert not folded(fn).leaves


def test_custom_derivatives_take_no_maps():
    """One number cannot make up for four, and a derivative's rule carries no map."""

    def fn(variables, x):
        hidden = jax.nn.relu(custom_dense(x, variables["w"]) + variables["b"])
        return custom_dense(hidden, variables["v"]) + variables["c"]

    variables = {"w": np.zeros((2, 3), np.float32), "b": np.ones(3, np.float32)}
    variables |= {"v": example(3, 4), "c": np.ones(1, np.float32)}
    coupling = jp.trace_coupling(fn, variables, example(1, 2))
    plan = without(coupling, group_of(coupling, "b", 0, 0))
    with pytest.raises(ValueError, match=r"no bias .* dot_general of v at .*own"):
        jp.fold_constants(coupling, variables, plan)


def recurrent(variables, x):
    def step(state, x):
        state = jnp.tanh(state @ variables["r"] + x @ variables["w"])
        return state, state @ variables["o"]

    start = jnp.zeros((x.shape[0], variables["r"].shape[0]))
    return jax.lax.scan(step, start, jnp.moveaxis(x, 1, 0))[1][-1]


def test_a_carry_is_known_where_it_stays_what_it_was():
    variables = {"r": example(6, 6), "w": example(3, 6), "o": example(6, 2)}
    variables["w"][:, :2] = 0
    variables["r"][:, 0] = 0  # 0 is never written; 1 takes from the others
    x = example(1, 4, 3)
    coupling = jp.trace_coupling(recurrent, variables, x)
    verdicts = jp.judge(coupling, variables).verdicts
    groups = [group_of(coupling, "o", 0, i) for i in range(6)]
    assert verdicts[groups].tolist() == [Verdict.EXACT] + [Verdict.REFUSED] * 5
    assert error(recurrent, variables, without(coupling, groups[0]), x) < 1e-6
    assert error(recurrent, variables, without(coupling, groups[1]), x) > 1e-3


@pytest.mark.parametrize("drift", [0, 5e-7])
def test_a_carry_that_drifts_is_not_constant(drift):
    def fn(variables, x):
        h = jnp.exp(x @ variables["w"])
        h = jax.lax.fori_loop(0, 9, lambda _, h: h * (1 + drift), h)
        return h @ variables["v"]

    variables = {"w": np.float32([[0, 1], [0, 2]]), "v": example(2, 2)}
    coupling = jp.trace_coupling(fn, variables, example(1, 2))
    constant = group_of(coupling, "w", 1, 0)
    verdict = jp.judge(coupling, variables).verdicts[constant]
    assert verdict == (Verdict.REFUSED if drift else Verdict.MAP)


def test_stacked_layers_are_dead_where_every_one_is():
    def deep(variables, x):
        def layer(x, w):
            return x + jax.nn.relu(x @ w["up"] + w["b"]) @ w["down"], None

        return jax.lax.scan(layer, x, variables["layers"])[0]

    stacked = {"up": example(3, 4, 6), "b": example(3, 6), "down": example(3, 6, 4)}
    stacked["up"][..., :3], stacked["b"][:, :3] = 0, (-1, 1, -1)
    stacked["b"][1, 2] = 1
    variables, x = {"layers": stacked}, example(1, 4)
    coupling = jp.trace_coupling(deep, variables, x)
    judged = jp.judge(coupling, variables)
    groups = [group_of(coupling, "layers/b", 1, i) for i in range(4)]
    assert judged.verdicts[groups][0] == Verdict.EXACT
    assert (judged.verdicts[groups][1:] == Verdict.REFUSED).all()
    assert error(deep, variables, without(coupling, groups[0]), x) < 1e-6


ACTIVATIONS = [jax.nn.relu, jnp.tanh, jax.nn.silu, jax.nn.sigmoid, jnp.square]


KINDS = ("dense", "gate", "skip", "wide", "norm", "pool", "branch", "custom")


def random_program(rng):
    """A chain of random layers with skips and concatenations, and its variables."""
    variables, steps, width = {}, [], 4
    for i in range(int(rng.integers(2, 4))):
        kind = rng.choice(KINDS)
        act = ACTIVATIONS[rng.integers(len(ACTIVATIONS))]
        inner = int(rng.integers(3, 6))
        out = width if kind in ("skip", "gate") else int(rng.integers(3, 6))
        shapes = {"w": (width, inner), "b": (inner,), "v": (inner, out), "c": (out,)}
        shapes |= {"scale": (inner,), "shift": (inner,)}
        variables[f"layer{i}"] = {
            name: rng.normal(size=shape).astype(np.float32)
            for name, shape in shapes.items()
        }
        steps.append((kind, act))
        width = out + (width if kind == "wide" else 0)

    def program(variables, x):
        first, second = x.sum() > 0, x.mean() > 1

        def in_branches(x, w):
            def inner(x, w):
                return jax.lax.cond(second, jnp.matmul, platform_dense, x, w)

            return jax.lax.cond(first, jnp.matmul, inner, x, w)

        products = {"branch": in_branches, "custom": custom_dense}
        for (kind, act), p in zip(steps, variables.values(), strict=True):
            hidden = act(x @ p["w"] + p["b"])
            if kind == "norm":
                hidden = hidden - hidden.mean(-1, keepdims=True)
            hidden = act(hidden * p["scale"] + p["shift"])
            if kind == "pool":  # along the positions, padding counted
                hidden = jax.lax.reduce_window(
                    hidden, 0.0, jax.lax.add, (1, 3, 1), (1, 1, 1), "SAME"
                )
            y = products.get(kind, jnp.matmul)(hidden, p["v"]) + p["c"]
            if kind == "gate":
                y = y * jax.nn.sigmoid(x.sum(-1, keepdims=True))
            if kind == "skip":
                y = x + y
            x = jnp.concatenate([x, y], -1) if kind == "wide" else y
        return x

    return program, variables


def kill(variables, rng):
    """Zeroes some channels of some leaves, so that constants arise."""
    for layer in variables.values():
        for i in range(len(layer["b"])):
            way = rng.integers(5)
            for name in [["scale"], ["scale", "shift"], ["w"], ["v"], []][way]:
                layer[name].swapaxes(0, name == "w")[i] = 0
            if rng.random() < 0.5:
                layer["shift"][i] = -abs(layer["shift"][i])


def with_slopes(fn):
    """The results, as differentiation computes them, and a gradient by the inputs."""

    def both(variables, x):
        y, pull_back = jax.vjp(lambda x: fn(variables, x), x)
        return y, pull_back(jnp.cos(y))

    return both


@pytest.mark.parametrize("seed", range(5))
def test_reasoning_is_never_wrong_on_random_programs(seed):
    rng = np.random.default_rng(seed)
    fn, variables = random_program(rng)
    kill(variables, rng)
    coupling = jp.trace_coupling(fn, variables, example(1, 5, 4))
    judged = jp.judge(coupling, variables)
    x = 3 * example(4, 5, 4)
    for worst in (Verdict.EXACT, Verdict.MAP):
        dead = judged.verdicts <= worst
        plan = jp.make_plan(coupling, variables, dead=dead)
        fold = judged.fold(plan)
        if worst == Verdict.EXACT:
            assert not fold.leaves
            assert not fold.maps
        jp.certify(
            with_slopes(fn),
            variables,
            with_slopes(jp.shrink(fn, plan, fold=fold)),
            *(plan.apply(variables, fold=fold), [x]),
            reasoning=judged.verdict(plan),
        ).raise_if_different()
