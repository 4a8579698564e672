import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import prox

numbers = st.floats(-10, 10, width=32)


@settings(max_examples=30)
@given(u=numbers, t=st.floats(0, 5, width=32), other=numbers)
def test_soft_threshold_minimises(u, t, other):
    def objective(x):
        return 0.5 * (x - u) ** 2 + t * abs(x)

    best = float(prox.soft_threshold(np.float32(u), np.float32(t)))
    assert objective(best) <= objective(other) + 1e-4
    assert (best == 0) == (abs(u) <= t)


def test_group_soft_threshold_minimises():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(6, 4)).astype(np.float32)

    def objective(x):
        return 0.5 * np.sum((x - u) ** 2, 1) + 2 * np.linalg.norm(x, axis=1)

    best = np.asarray(prox.group_soft_threshold(u, 2.0))
    gone = np.linalg.norm(u, axis=1) <= 2
    assert 0 < gone.sum() < 6
    np.testing.assert_array_equal(np.all(best == 0, axis=1), gone)
    for _ in range(100):
        other = best + rng.normal(size=u.shape) * 0.1
        assert np.all(objective(best) <= objective(other) + 1e-5)


def test_a_group_of_zeros_stays_zero():
    assert not np.any(prox.group_soft_threshold(np.zeros((2, 3)), 1.0))
