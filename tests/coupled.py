"""For tests: remove groups at random and compare with the dense network set to zero."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp


class Case(NamedTuple):
    """A network, its plan, and both sets of variables."""

    coupling: jp.Coupling
    plan: jp.Plan
    dense: object
    small: object
    fn: object


def randomise(variables, seed=0):
    """Everything random: statistics, shifts, scales; variances positive."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros(leaf.shape, leaf.dtype)
        values = rng.normal(size=leaf.shape) / max(leaf.shape[:-1] or (1,)) ** 0.5
        if jp.paths.name(path).endswith("var"):
            values = values**2 + 0.5
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map_with_path(fill, variables)


def init(module, *inputs, seed=0, **kwargs):
    """Random variables of a Linen module, without running its initialisers."""
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: module.init(key, *inputs, **kwargs))
    return randomise(shapes, seed)


def images(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def some(coupling, share=0.4, seed=0):
    """Removes groups at random, but never all of an axis."""
    rng = np.random.default_rng(seed)
    keep = np.r_[True, rng.random(coupling.size) > share]
    for leaf in coupling.leaves.values():
        for labels in leaf.labels:
            if len(labels) and not keep[labels].any():
                keep[labels[0]] = True
    return keep


def without(coupling, *places):
    """Removes the groups of the slots (path, axis, index)."""
    keep = np.ones(coupling.size + 1, bool)
    for path, axis, index in places:
        group = coupling.leaves[path].labels[axis][index]
        assert group, f"{path}[{axis}][{index}] is frozen"
        keep[group] = False
    return keep


def zeroed(tree, plan):
    """The dense tree with all removed slots set to zero."""

    def zero(path, x):
        for axis, indices in plan.removed.get(jp.paths.name(path), {}).items():
            x = x.at[(slice(None),) * axis + (np.asarray(indices),)].set(0)
        return x

    return jax.tree.map_with_path(zero, jax.tree.map(jnp.asarray, tree))


def case(fn, variables, *inputs, keep=some, also=(), **policies):
    """Traces, removes what `keep` says, and shrinks."""
    coupling = jp.trace_coupling(fn, variables, *inputs, also=also, **policies)
    kept = keep(coupling)
    assert not kept.all()
    plan = jp.Plan.from_keep(coupling, kept)
    small = plan.apply(variables)
    assert coupling.params(kept) == sum(x.size for x in jax.tree.leaves(small))
    return Case(coupling, plan, zeroed(variables, plan), small, jp.shrink(fn, plan))


def agree(fn, variables, *inputs, tolerance=1e-5, renews=False, **options):
    """The small function gives what the dense one does where removed slots are zero.

    With `renews` it returns a result and leaves in a new state.
    """
    result = case(fn, variables, *inputs, **options)
    want = jax.jit(fn)(result.dense, *inputs)
    if renews:
        want = want[0], result.plan.apply(want[1])
    got = jax.jit(result.fn)(result.small, *inputs)
    close(got, want, tolerance)
    return result


def close(got, want, tolerance=1e-5):
    """Equal structures; arrays equal, relative to the largest entry."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = max(1.0, float(jnp.abs(b).max(initial=0)))
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=0)
