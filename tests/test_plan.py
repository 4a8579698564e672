"""A plan is a value, and shrinks anything shaped like the variables."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import jaxprune as jp
from jaxprune.plan import Fold, Plan


def count(n):
    return np.arange(n, dtype=np.float32)


DENSE = {
    "params": {
        "Conv_0": {"kernel": count(24).reshape(2, 3, 4), "bias": count(4)},
        "BatchNorm_0": {"scale": count(4) + 10, "bias": count(4) + 20},
        "Dense_0": {"kernel": count(20).reshape(4, 5), "bias": count(5)},
    },
    "batch_stats": {"BatchNorm_0": {"mean": count(4), "var": count(4) + 1}},
}
GONE, LEFT = (1, 3), [0, 2]
LOSES = {
    "params/Conv_0/kernel": {2: GONE},
    "params/Conv_0/bias": {0: GONE},
    "params/BatchNorm_0/scale": {0: GONE},
    "params/BatchNorm_0/bias": {0: GONE},
    "params/Dense_0/kernel": {0: GONE},
    "batch_stats/BatchNorm_0/mean": {0: GONE},
    "batch_stats/BatchNorm_0/var": {0: GONE},
}


def shapes_of(tree):
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): x.shape for p, x in leaves
    }


PLAN = Plan(shapes_of(DENSE), LOSES)
SMALL = PLAN.apply(DENSE)


def fake_coupling():
    """One group per channel of the convolution, as tracing would find them."""
    labels = {
        path: [np.zeros(n, int) for n in shape] for path, shape in PLAN.shapes.items()
    }
    for path, axes in LOSES.items():
        for axis in axes:
            labels[path][axis] = np.arange(1, 5)
    leaves = {
        path: SimpleNamespace(shape=shape, labels=tuple(labels[path]))
        for path, shape in PLAN.shapes.items()
    }
    return SimpleNamespace(size=4, leaves=leaves)


def assert_small(tree, dense):
    assert jax.tree.structure(tree) == jax.tree.structure(dense)
    chex.assert_trees_all_equal(tree, PLAN.apply(dense))


def test_apply_slices_every_leaf_and_keeps_the_rest():
    np.testing.assert_array_equal(
        SMALL["params"]["Conv_0"]["kernel"],
        DENSE["params"]["Conv_0"]["kernel"][:, :, LEFT],
    )
    np.testing.assert_array_equal(SMALL["batch_stats"]["BatchNorm_0"]["mean"], LEFT)
    np.testing.assert_array_equal(SMALL["params"]["Dense_0"]["bias"], np.arange(5))
    assert shapes_of(SMALL) == PLAN.widths


def test_mask_zeroes_what_apply_removes():
    masked = PLAN.mask(DENSE)
    assert shapes_of(masked) == PLAN.shapes
    chex.assert_trees_all_equal(PLAN.apply(masked), SMALL)
    np.testing.assert_array_equal(masked["params"]["Dense_0"]["kernel"][1], np.zeros(5))
    total = sum(map(np.sum, jax.tree.leaves(masked)))
    assert total == sum(map(np.sum, jax.tree.leaves(SMALL)))


def test_a_plan_is_a_value():
    again = Plan.from_json(PLAN.to_json())
    assert again == PLAN
    assert hash(again) == hash(PLAN)
    assert Plan(PLAN.shapes, {}) != PLAN
    assert repr(PLAN) == "Plan(7 of 8 leaves shrink, 69 → 37 entries)"
    assert "params/Conv_0/kernel: (2, 3, 4) → (2, 3, 2)" in str(PLAN)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: "{", "must be JSON"),
        (lambda d: "[]", "not a plan"),
        (lambda d: json.dumps({**d, "format": "other"}), "not a plan"),
        (lambda d: json.dumps({k: d[k] for k in ("format", "shapes")}), "damaged plan"),
        (lambda d: json.dumps({**d, "removed": {"nowhere": {"0": [1]}}}), "nowhere"),
        (lambda d: json.dumps({**d, "shapes": [3]}), "damaged plan"),
    ],
)
def test_damaged_json(damage, message):
    with pytest.raises(ValueError, match=message):
        Plan.from_json(damage(json.loads(PLAN.to_json())))


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"w": {1: (0,)}}, "has no axis 1"),
        ({"w": {0: (2, 1)}}, "must ascend"),
        ({"w": {0: (3, 4)}}, r"must lie in \[0, 4\), got 3 … 4"),
        ({"w": {0: (0, 1, 2, 3)}}, "would lose all 4 indices"),
    ],
)
def test_a_plan_that_contradicts_itself(removed, message):
    with pytest.raises(ValueError, match=message):
        Plan({"w": (4,)}, removed)


def test_then_is_one_after_the_other():
    second = Plan(
        PLAN.widths,
        {path: dict.fromkeys(axes, (0,)) for path, axes in LOSES.items()},
    )
    both = PLAN.then(second)
    assert both.removed["params/Conv_0/bias"] == {0: (0, 1, 3)}
    chex.assert_trees_all_equal(both.apply(DENSE), second.apply(SMALL))
    with pytest.raises(ValueError, match=r"is \(2,\) after the first plan"):
        PLAN.then(PLAN)


def test_keep_masks_there_and_back():
    keep = np.array([True, True, False, True, False])
    assert Plan.from_keep(fake_coupling(), keep) == PLAN
    np.testing.assert_array_equal(PLAN.to_keep(fake_coupling()), keep)


def test_keep_masks_that_do_not_fit():
    coupling = fake_coupling()
    with pytest.raises(ValueError, match=r"must have shape \(5,\)"):
        Plan.from_keep(coupling, np.ones(4, bool))
    part = Plan(PLAN.shapes, {"params/Conv_0/bias": {0: (0,)}})
    with pytest.raises(ValueError, match="part of a group"):
        part.to_keep(coupling)
    frozen = Plan(PLAN.shapes, {"params/Dense_0/kernel": {1: (0,)}})
    with pytest.raises(ValueError, match="frozen"):
        frozen.to_keep(coupling)
    with pytest.raises(ValueError, match="is missing"):
        Plan({"w": (4,)}, {"w": {0: (0,)}}).to_keep(coupling)


FACTORS = {"Conv_0": "weights", "BatchNorm_0": "factors", "Dense_0": "weights"}
OPTIMIZERS = {
    "adam": optax.scale_by_adam(),
    "momentum": optax.sgd(optax.constant_schedule(0.1), momentum=0.9),
    "multi_steps": optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(),
    "masked": optax.masked(
        optax.trace(0.9), {k: v == "factors" for k, v in FACTORS.items()}
    ),
    "partition": optax.partition(
        {"factors": optax.adam(1.0), "weights": optax.lion(1.0)}, FACTORS
    ),
    "injected": optax.inject_hyperparams(optax.nadam)(learning_rate=0.1),
    "stepwise": optax.chain(
        optax.sgd(0.1, momentum=0.9),
        jp.active_stepwise_pruning(
            jp.schedules.logarithmic(final=0.5, curvature=10, steps=3),
            every=2,
            prunable=jp.paths.kernels,
        ),
    ),
    "fista": optax.partition(
        {"factors": jp.fista(0.1, l1=1e-3), "weights": optax.sgd(0.1, momentum=0.9)},
        FACTORS,
    ),
    "lbfgs": optax.scale_by_lbfgs(memory_size=3),
    "ema": optax.chain(optax.clip_by_global_norm(1.0), optax.ema(0.9)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_states(name):
    init, update = OPTIMIZERS[name]
    abstract = jax.eval_shape(init, DENSE["params"])
    dense = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), abstract)
    small, params = PLAN.apply(dense), SMALL["params"]
    expected = jax.eval_shape(init, params)
    for tree in (small, PLAN.apply(abstract)):
        assert jax.tree.structure(tree) == jax.tree.structure(expected)
        assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, expected)
    if name != "lbfgs":
        _, after = jax.eval_shape(update, params, small, params)
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, expected)


def test_plain_sgd_has_nothing_to_shrink():
    state = optax.sgd(0.1).init(DENSE["params"])
    assert PLAN.apply(state) == state
    schedule = optax.sgd(optax.constant_schedule(0.1)).init(DENSE["params"])
    assert jax.tree.leaves(PLAN.apply(schedule)) == jax.tree.leaves(schedule)


def test_a_train_state_around_all_of_it():
    tree = {
        "step": np.int32(3),
        "key": np.zeros(2, np.uint32),
        "params": DENSE["params"],
        "ema": {"shadow": DENSE["params"], "decay": 0.9},
        "extra": DENSE["batch_stats"],
        "replicas": jax.tree.map(lambda x: np.stack([x, x]), DENSE),
        "history": np.zeros((7, 4)),
    }
    small = PLAN.apply(tree)
    assert small["step"] == 3
    assert small["key"].shape == (2,)
    assert small["history"].shape == (7, 4)
    for tree in (small["params"], small["ema"]["shadow"]):
        chex.assert_trees_all_equal(tree, SMALL["params"])
    chex.assert_trees_all_equal(small["extra"], SMALL["batch_stats"])
    kernel = small["replicas"]["params"]["Conv_0"]["kernel"]
    assert kernel.shape == (2, 2, 3, 2)


def test_lists_without_names_are_found_by_their_shapes():
    variables = ([np.zeros((3, 4)), np.zeros(4)], [np.ones((4, 4)), np.ones(4)])
    plan = Plan(
        shapes_of(variables), {"0/0": {1: (0,)}, "0/1": {0: (0,)}, "1/1": {0: (1,)}}
    )
    state = optax.trace(0.9).init(variables[0])
    assert plan.apply(state).trace[1].shape == (3,)


def test_ambiguous_trees_are_refused():
    block = {"kernel": np.zeros((3, 4))}
    plan = Plan(
        shapes_of({"a": block, "b": block}),
        {"a/kernel": {1: (0,)}, "b/kernel": {1: (2,)}},
    )
    assert plan.apply({"x": {"a": block}})["x"]["a"]["kernel"].shape == (3, 3)
    with pytest.raises(
        ValueError, match="could stand for 'a/kernel' or for 'b/kernel'"
    ):
        plan.apply({"mu": block})


def test_wrong_trees_are_refused():
    with pytest.raises(ValueError, match="nothing here is shaped like the variables"):
        PLAN.apply({"other": np.zeros((3, 3))})
    with pytest.raises(ValueError, match=r"has shape \(4, 2\), but .* is \(4,\)"):
        PLAN.apply(jax.tree.map(lambda x: np.stack([x, x], -1), DENSE))
    with pytest.raises(ValueError, match=r"has shape \(2,\), but .* is \(4,\)"):
        PLAN.apply(SMALL)
    state = optax.adafactor(0.1, min_dim_size_to_factor=2).init(DENSE["params"])
    with pytest.raises(ValueError, match="v_row"):
        PLAN.apply(state)


def test_fold_adds_to_dense_leaves():
    delta = np.array([0.0, 1.0, 2.0, 3.0])
    small = PLAN.apply(DENSE, fold=Fold({"params/Conv_0/bias": delta}))
    np.testing.assert_array_equal(small["params"]["Conv_0"]["bias"], [0.0, 4.0])
    with pytest.raises(ValueError, match="which the plan has not"):
        PLAN.apply(DENSE, fold=Fold({"nowhere": delta}))


def test_abstract_and_traced_arrays():
    abstract = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, DENSE))
    small = PLAN.apply(abstract)
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, SMALL)
    jitted = jax.jit(PLAN.apply)(DENSE)
    chex.assert_trees_all_equal(jitted, SMALL)


def test_sharded_arrays_stay_sharded_where_the_mesh_divides():
    mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("x"))
    small = PLAN.apply(jax.device_put(DENSE, sharding))
    for leaf in jax.tree.leaves(small):
        assert leaf.sharding == sharding
    abstract = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding)
    plan = Plan({"w": (4,)}, {"w": {0: (0,)}})
    assert plan.apply({"w": abstract})["w"].sharding == sharding


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import jaxprune as jp

mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
w = np.arange(16.0 * 24).reshape(16, 24)
placed = jax.device_put(w, NamedSharding(mesh, P(None, "d")))
plan = jp.Plan({"w": (16, 24)}, {"w": {0: (1, 5), 1: tuple(range(8))}})
small = plan.apply({"w": placed})["w"]
assert np.array_equal(small, np.delete(w, (1, 5), 0)[:, 8:])
assert small.sharding.spec == P(None, "d") and len(small.addressable_shards) == 8
odd = jp.Plan({"w": (16, 24)}, {"w": {1: (3,)}}).apply({"w": placed})["w"]
assert np.array_equal(odd, np.delete(w, 3, 1))
"""


def test_arrays_on_several_devices_stay_there():
    flags = "--xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
