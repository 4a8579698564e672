"""Constants through calls, conditionals and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judging import custom_dense, error, example, group_of, platform_dense, without

import jaxprune as jp
from jaxprune import Verdict


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
