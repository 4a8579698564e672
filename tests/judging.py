"""For tests of constants: programs with random weights, what is left of them."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp


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
