import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import masks, thresholds

SHAPES = [(), (0,), (7,), (3, 5), (2, 0, 3), (4, 16), (32, 3, 3)]
DTYPES = ["float32", "float16", "bfloat16"]
EDGES = [0.0, -0.0, np.inf, -np.inf, 1e-45, -1e-45, 1e-40, 6e-8, 1.0, 1.0, -1.0]


def as_float64(x):
    """Exact values, subnormals included, by NumPy and not by the device."""
    with np.errstate(invalid="ignore"):
        return np.asarray(x).astype(np.float64)


def oracle(leaves):
    return np.concatenate([as_float64(x).ravel() for x in leaves])


kth = jax.jit(thresholds.kth_smallest)
all_but_smallest = jax.jit(masks.all_but_smallest)


def check(leaves, ranks):
    joined = oracle(leaves)
    order = np.argsort(joined, kind="stable")
    for k in ranks:
        assert as_float64(kth(leaves, k)) == joined[order[k]]
        expected = np.ones(joined.size, bool)
        expected[order[:k]] = False
        kept = all_but_smallest(leaves, k)
        got = np.concatenate([np.asarray(m).ravel() for m in kept])
        np.testing.assert_array_equal(got, expected)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    distinct=st.integers(1, 60),
    edges=st.floats(0, 1),
    scale=st.sampled_from([1.0, 1e-39, 1e30]),
)
def test_equals_a_stable_sort(seed, distinct, edges, scale):
    """Ties, both zeros, subnormals, infinities, empty leaves, three dtypes at once."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=distinct) * scale
    leaves = []
    for i, shape in enumerate(SHAPES):
        x = rng.choice(values, shape)
        x = np.where(rng.random(shape) < edges, rng.choice(EDGES, shape), x)
        with np.errstate(over="ignore"):
            leaves.append(x.astype(jnp.dtype(DTYPES[i % 3])))
    n = sum(x.size for x in leaves)
    check(leaves, [0, 1, n // 3, n - 1, int(rng.integers(n))])


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_leaf_of_each_dtype(dtype):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(37, 16)) ** 7).astype(jnp.dtype(dtype))
    assert kth([x], 3).dtype == dtype
    check([x], [0, 100, 591])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_keys_of_every_half_float_rise_with_it(dtype):
    x = np.arange(2**16, dtype=np.uint16).view(jnp.dtype(dtype))
    x = x[~np.isnan(as_float64(x))]
    keys = np.asarray(jax.jit(thresholds.key)(x))
    order = np.argsort(as_float64(x), kind="stable")
    rises = np.diff(as_float64(x)[order]) > 0
    np.testing.assert_array_equal(np.diff(keys[order].astype(np.int64)) > 0, rises)
    back = jax.jit(thresholds.from_key, static_argnums=1)(keys, dtype)
    np.testing.assert_array_equal(as_float64(back), as_float64(x))


def test_float64():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        tiny = np.array([1e-40, -1e-45, 0.5], np.float32)
        leaves = [rng.normal(size=50) * 1e-40, tiny, np.array([5e-324, -1e300])]
        check(leaves, [0, 20, 26, 27, 28, 54])


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.82, 0.9999])
@pytest.mark.parametrize("shape", [(1024, 1024), (1001, 999)])
def test_large_leaf_by_sample(shape, fraction):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    k = int(fraction * x.size)
    assert float(kth([x], k)) == np.partition(x.ravel(), k)[k]


def test_a_sample_that_misleads():
    """Sorted data, and data in which nearly all is one value."""
    ramp = np.linspace(-1, 1, 2**20, dtype=np.float32)
    spike = np.where(np.arange(2**20) % 1000 < 999, 0, ramp).astype(np.float32)
    for x in (ramp, spike):
        for k in (3, 2**19, 2**20 - 700):
            assert float(kth([x], k)) == np.sort(x)[k]


def test_groups_that_hold_many_of_the_last_keys():
    """Of these a take-out finds two of each group: the answer is then counted down."""
    ramp = np.linspace(-1, 1, 2**20, dtype=np.float32).reshape(-1, 64).T
    for k in (3, 2**18, 2**20 - 700):
        assert float(kth([ramp], k)) == np.sort(ramp.ravel())[k]


@pytest.mark.parametrize("distinct", [20, 2**12, 2**16])
def test_large_leaf_of_ties(distinct):
    rng = np.random.default_rng(0)
    x = rng.choice(rng.normal(size=distinct).astype(np.float32), (1024, 1024))
    for k in (2**17, 2**19):
        assert float(kth([x], k)) == np.partition(x.ravel(), k)[k]


def test_large_leaf_of_float64():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(1024, 600)) * 1e-200
        assert float(kth([x], 2**18)) == np.partition(x.ravel(), 2**18)[2**18]


def test_scores_of_a_scale_for_each_row():
    """The sample has to meet all rows and columns, or many passes are needed."""
    rng = np.random.default_rng(0)
    scales = np.exp(rng.normal(size=(2, 1024))).astype(np.float32)
    x = np.abs(rng.normal(size=(1024, 1024)).astype(np.float32))
    leaves = [jnp.asarray(x * scales[0]), jnp.asarray(x * scales[1][:, None])]
    for fraction in (0.1, 0.5, 0.94):
        k = jnp.int32(fraction * 2**21)
        low, high = thresholds._sampled(leaves, k, wide=False)
        assert low < thresholds.key(kth(leaves, k)) < high


SHARDED = """
import math, re
import jax, jax.numpy as jnp, numpy as np
import jaxprune as jp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
rng = np.random.default_rng(0)
x = [rng.normal(size=(1024, 512)).astype(np.float32) for _ in range(2)]
specs = P("d"), P(None, "d")
leaves = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(x, specs)]
kth = jax.jit(jp.thresholds.kth_smallest).lower(leaves, 0).compile()
for k in (3, 2**19):
    assert float(kth(leaves, k)) == np.sort(np.concatenate(x).ravel())[k]
gathered = re.findall(r"\\[([\\d,]+)\\]\\S* all-gather", kth.as_text())
assert gathered
for shape in gathered:
    assert math.prod(map(int, shape.split(","))) <= 2**15, shape
"""


def test_sharded_leaves_stay_in_place():
    flags = "--xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-c", SHARDED]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_hundreds_of_leaves():
    rng = np.random.default_rng(0)
    leaves = [rng.normal(size=3).astype(np.float32) for _ in range(300)]
    assert float(kth(leaves, 450)) == np.sort(oracle(leaves))[450]


def test_nan_raises_outside_jit_and_comes_last_inside():
    x = jnp.array([jnp.nan, 1.0, -jnp.nan, 2.0])
    with pytest.raises(ValueError, match="2 of 4 scores are NaN"):
        thresholds.kth_smallest([x], 0)
    assert [float(kth([x], k)) for k in (0, 1)] == [1, 2]
    assert np.isnan(float(kth([x], 2)))
    assert int(jax.jit(thresholds.count_nan)([x])) == 2


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "must number 1"),
        ({"a": np.ones((0, 3), np.float32)}, "must number 1"),
        ({"a": np.ones(3, np.int32)}, "must be floats, got a leaf of int32"),
    ],
)
def test_unusable_scores(tree, message):
    with pytest.raises(ValueError, match=message):
        thresholds.kth_smallest(tree, 0)
