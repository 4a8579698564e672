"""For tests: two small layers with something to learn, and pruning behind SGD."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp

STEPS, EVERY, HOLD = 4, 2, 2
UPDATES = (STEPS + HOLD) * EVERY + 3
SCHEDULE = jp.schedules.logarithmic(final=0.75, curvature=10, steps=STEPS)
SIZE = 8 * 6 + 6 * 4
KEPT = SIZE - round(0.75 * SIZE)
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(16, 8)), jnp.float32)
Y = jnp.asarray(RNG.normal(size=(16, 4)), jnp.float32)


def new_params():
    rng = np.random.default_rng(1)
    shapes = {"a": {"kernel": (8, 6), "bias": (6,)}, "b": {"kernel": (6, 4)}}
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s), jnp.float32),
        shapes,
        is_leaf=lambda s: isinstance(s, tuple),
    )


def loss(params):
    hidden = jnp.tanh(X @ params["a"]["kernel"] + params["a"]["bias"])
    return jnp.mean(jnp.square(hidden @ params["b"]["kernel"] - Y))


def stepwise(schedule=SCHEDULE, every=EVERY, hold=HOLD, **options):
    return jp.active_stepwise_pruning(schedule, every, hold=hold, **options)


def regrow(sparsity=0.75, every=EVERY, cycles=STEPS + HOLD, **options):
    return jp.drop_and_regrow(sparsity, every, cycles, **options)


LINKS = {"stepwise": stepwise(), "regrow": regrow()}


def sgd_then(*links):
    return optax.chain(optax.sgd(0.3, momentum=0.9), *links)


def state_of(opt_state):
    found = jax.tree.leaves(
        opt_state, is_leaf=lambda s: isinstance(s, jp.StepwiseState)
    )
    return next(s for s in found if isinstance(s, jp.StepwiseState))


def kernels(tree):
    return [np.asarray(tree["a"]["kernel"]), np.asarray(tree["b"]["kernel"])]


def make_step(tx):
    def step(params, opt_state):
        value, grads = jax.value_and_grad(loss)(params)
        extra = {"value": value, "grad": grads, "value_fn": loss}
        tx_ = optax.with_extra_args_support(tx)
        updates, opt_state = tx_.update(grads, opt_state, params, **extra)
        return optax.apply_updates(params, updates), opt_state

    return step


def once(step):
    """The function, which must not be traced again."""
    traces = []

    def traced(*args):
        traces.append(None)
        assert len(traces) == 1
        return step(*args)

    return traced


def jit_once(step):
    return jax.jit(once(step), donate_argnums=(0, 1))


def train(tx, updates=UPDATES, transform=jax.jit):
    step, params = transform(make_step(tx)), new_params()
    opt_state = tx.init(params)
    for _ in range(updates):
        params, opt_state = step(params, opt_state)
    return params, opt_state


@functools.cache
def trained(name):
    """The params and the optimizer's state after training with one of `LINKS`."""
    return train(sgd_then(LINKS[name]), transform=jit_once)


def assert_same(opt_state, name):
    """The masks are those that training with one of `LINKS` ends with."""
    expected = state_of(trained(name)[1]).masks
    chex.assert_trees_all_equal(state_of(opt_state).masks, expected)
