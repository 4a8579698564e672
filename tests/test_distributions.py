import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from jaxprune.distributions import erdos_renyi_kernel, uniform

SIDE = st.integers(1, 40)
SHAPES = st.lists(
    st.one_of(st.tuples(SIDE, SIDE), st.tuples(st.just(3), st.just(3), SIDE, SIDE)),
    min_size=1,
    max_size=6,
)
SPARSITY = st.floats(0, 0.99)


def sizes(shapes):
    return np.array([math.prod(shape) for shape in shapes])


def possible(shapes, sparsity):
    size = sum(sizes(shapes))
    return size - round(sparsity * size) >= len(shapes)


@given(SHAPES, SPARSITY)
def test_erk_is_exact_and_leaves_something_everywhere(shapes, sparsity):
    if not possible(shapes, sparsity):
        with pytest.raises(ValueError, match="fewer than the"):
            erdos_renyi_kernel(shapes, sparsity)
        return
    pruned = erdos_renyi_kernel(shapes, sparsity)
    assert sum(pruned) == round(sparsity * sum(sizes(shapes)))
    assert np.all((pruned >= 0) & (pruned < sizes(shapes)))


@given(SHAPES, SPARSITY)
def test_erk_is_the_least_epsilon(shapes, sparsity):
    """No leaf got a weight before another's turn: ⌈ε·d⌉ or full, for one ε."""
    if possible(shapes, sparsity):
        kept = sizes(shapes) - erdos_renyi_kernel(shapes, sparsity)
        dims = np.array([sum(shape) for shape in shapes])
        latest = max((kept - 1) / dims)
        open_ = kept < sizes(shapes)
        assert np.all(kept[open_] / dims[open_] >= latest - 1e-9)


@given(SHAPES, SPARSITY, SPARSITY)
def test_a_higher_sparsity_gives_no_weight_back(shapes, one, other):
    low, high = sorted((one, other))
    if possible(shapes, high):
        less, more = (erdos_renyi_kernel(shapes, s) for s in (low, high))
        assert np.all(less <= more)


def test_erk_by_the_formula_where_nothing_is_full():
    shapes = [(3, 3, 256, 256), (3, 3, 256, 512), (512, 512), (512, 10)]
    kept = sizes(shapes) - erdos_renyi_kernel(shapes, 0.99)
    dims = np.array([sum(shape) for shape in shapes])
    epsilon = sum(kept) / sum(dims)
    np.testing.assert_allclose(kept, epsilon * dims, atol=len(shapes))
    density = kept / sizes(shapes)
    assert list(np.argsort(density)) == [1, 0, 2, 3]


def test_small_leaves_are_full():
    assert list(erdos_renyi_kernel([(512, 512), (3, 3, 1, 8)], 0.9)) == [235994, 0]
    assert list(erdos_renyi_kernel([(4, 4)], 0)) == [0]


def test_uniform():
    assert list(uniform([(10, 10), (3, 5)], 0.8)) == [80, 12]


@pytest.mark.parametrize("share", [uniform, erdos_renyi_kernel])
def test_sparsity_out_of_range(share):
    for sparsity in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\)"):
            share([(4, 4)], sparsity)
