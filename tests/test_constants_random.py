"""Constants in random programs: the reasoning is never wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from judging import custom_dense, example, platform_dense

import jaxprune as jp
from jaxprune import Verdict

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
