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
