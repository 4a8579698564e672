"""Random programs: the small function is right, and groups could not be smaller."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coupled import case, close, images, some
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import jaxprune as jp

BATCH = images(2, 4)
POLYMORPHIC = ("dense", "dense", "add", "concat", "scale", "tied", "centre")
FIXED = ("slice", "pad", "split", "roll", "heads", "grouped", "scan")


class Program:
    """A random network of (batch, width) arrays: each step takes earlier results."""

    def __init__(self, steps):
        self.variables, self.widths, self.steps, self.read = {}, [], [], set()
        first = self.leaf(4, 6)
        self.add(lambda p, made: made[0] @ p[first], 6)
        for kind, a, b, width in steps:
            count = len(self.widths)
            self.grow(kind, 1 + a % count, 1 + b % count, width)
        unread = sorted(set(range(1, 1 + len(self.widths))) - self.read)
        self.ends = [(i, self.leaf(self.widths[i - 1], 2)) for i in unread]

    def __call__(self, p, x):
        made = [x]
        for step in self.steps:
            made.append(step(p, made))
        return sum(made[i] @ p[end] for i, end in self.ends)

    def leaf(self, *shape):
        name = f"{len(self.variables):02d}"
        values = images(*shape, seed=len(self.variables))
        self.variables[name] = values / np.float32(2)
        return name

    def add(self, step, width):
        self.steps.append(step)
        self.widths.append(width)

    def grow(self, kind, i, j, width):
        """Adds a step of `kind` on results i and j; a scale where it does not fit."""
        n, m = self.widths[i - 1], self.widths[j - 1]
        self.read.add(i)
        match kind:
            case "dense":
                w, b = self.leaf(n, width), self.leaf(width)
                self.add(lambda p, s: jnp.tanh(s[i] @ p[w] + p[b]), width)
            case "add" if n == m:
                self.read.add(j)
                self.add(lambda p, s: s[i] + s[j], n)
            case "concat" if n + m < 20:
                self.read.add(j)
                self.add(lambda p, s: jnp.concatenate([s[i], s[j]], 1), n + m)
            case "tied":
                w = self.leaf(n, width)
                self.add(lambda p, s: jnp.tanh(s[i] @ p[w]) @ p[w].T, n)
            case "centre":
                self.add(lambda p, s: s[i] - s[i].mean(0), n)
            case "slice" if n > 3:
                self.add(lambda p, s: s[i][:, 1::2], n // 2)
            case "pad":
                self.add(lambda p, s: jnp.pad(s[i], ((0, 0), (1, 2))), n + 3)
            case "split" if n % 2 == 0:
                self.add(lambda p, s: jnp.multiply(*jnp.split(s[i], 2, 1)), n // 2)
            case "roll":
                self.add(lambda p, s: jnp.roll(s[i], 1, axis=1), n)
            case "heads" if n % 2 == 0:
                self.add(lambda p, s: shuffle(s[i]), n)
            case "grouped" if n % 2 == 0:
                w = self.leaf(width, n // 2, 1)
                self.add(lambda p, s: grouped(s[i], p[w]), width)
            case "scan":
                w = self.leaf(2, n, n)
                self.add(lambda p, s: recur(s[i], p[w]), n)
            case _:
                w = self.leaf(n)
                self.add(lambda p, s: s[i] * p[w], n)


def shuffle(x):
    return jnp.sin(x.reshape(len(x), 2, -1)).swapaxes(1, 2).reshape(len(x), -1)


def grouped(x, kernel):
    x = lax.conv_general_dilated(
        x[..., None], kernel, (1,), "SAME", feature_group_count=2
    )
    return x[..., 0]


def recur(x, matrices):
    return lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, matrices)[0]


def programs(kinds):
    index = st.integers(0, 9)
    step = st.tuples(st.sampled_from(kinds), index, index, st.sampled_from([4, 6]))
    return st.lists(step, min_size=2, max_size=6).map(Program)


@settings(max_examples=10)
@given(programs(POLYMORPHIC + FIXED), st.integers(0, 99), st.booleans())
def test_shapes_hold_and_values_are_those_of_the_dense_with_zeros(fn, seed, inner):
    split = "inner" if inner else "outer"
    coupling = jp.trace_coupling(fn, fn.variables, BATCH, split=split)
    keep = some(coupling, seed=seed)
    if keep.all():
        return
    result = case(fn, fn.variables, BATCH, keep=lambda _: keep, split=split)
    close(result.fn(result.small, BATCH), fn(result.dense, BATCH))


@settings(max_examples=8)
@given(programs(POLYMORPHIC), st.integers(0, 999))
def test_a_group_goes_whole_and_no_part_of_it_alone(fn, pick):
    """The program itself judges: it runs on smaller leaves as it is, or cannot."""
    coupling = jp.trace_coupling(fn, fn.variables, BATCH)
    group = 1 + pick % coupling.size
    plan = jp.Plan.from_keep(coupling, np.arange(coupling.size + 1) != group)
    small, small_fn = plan.apply(fn.variables), jp.shrink(fn, plan)
    close(fn(small, BATCH), small_fn(small, BATCH))
    places = [(path, axis) for path, axes in plan.removed.items() for axis in axes]
    path, axis = places[pick % len(places)]
    removed = {p: dict(axes) for p, axes in plan.removed.items()}
    del removed[path][axis]
    part = jp.Plan(plan.shapes, removed)
    if len(places) > 1:
        with pytest.raises((TypeError, ValueError)):
            jax.eval_shape(fn, part.apply(fn.variables), BATCH)
        with pytest.raises(ValueError, match="live and die with it"):
            jp.shrink(fn, part)(part.apply(fn.variables), BATCH)
