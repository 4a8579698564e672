import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis.extra.numpy import arrays

from jaxprune import leafwise

TIED = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1e-42, 0.5, 1.0, np.inf])
FREE = st.floats(width=32, allow_nan=False)
VALUES = st.one_of(TIED, FREE)


def by_sorting(x, k):
    """The same by a stable sort; −0 is 0."""
    kept = np.ones(x.size, bool)
    kept[np.argsort(x.ravel(), kind="stable")[:k]] = False
    return kept.reshape(x.shape)


@given(
    arrays(np.float32, (5, 3), elements=VALUES),
    arrays(np.float32, (7,), elements=VALUES),
    st.integers(0, 15),
    st.integers(0, 7),
)
def test_as_a_stable_sort_of_each_leaf(x, y, i, j):
    ks = jnp.array([i, j])
    leaves = [jnp.asarray(x), jnp.asarray(y)]
    kths = leafwise.kth_smallest(leaves, ks)
    expected = [np.sort(x.ravel())[min(i, 14)], np.sort(y)[min(j, 6)]]
    np.testing.assert_array_equal(kths, np.array(expected) + 0.0)
    one, other = leafwise.all_but_smallest(leaves, ks)
    np.testing.assert_array_equal(one, by_sorting(x, i))
    np.testing.assert_array_equal(other, by_sorting(y, j))


def test_mixed_dtypes_and_many_weights():
    rng = np.random.default_rng(0)
    leaves = [
        jnp.asarray(rng.normal(size=(100, 90)), jnp.bfloat16),
        jnp.asarray(rng.normal(size=9_999), jnp.float32),
    ]
    kept = leafwise.all_but_smallest(leaves, jnp.array([4_321, 9_000]))
    for x, k, m in zip(leaves, (4_321, 9_000), kept, strict=True):
        np.testing.assert_array_equal(m, by_sorting(np.asarray(x, np.float32), k))
