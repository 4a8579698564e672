import math

import numpy as np
import pytest

from jaxprune import schedules

ALL = [
    schedules.logarithmic(0.82, curvature=10, steps=20),
    schedules.cubic(0.82, steps=20),
    schedules.linear(0.82, steps=20),
]


@pytest.mark.parametrize("schedule", ALL)
def test_rises_from_zero_to_final_and_stays(schedule):
    sparsity = np.asarray(schedule(np.arange(25)))
    assert sparsity[0] == 0
    assert np.all(np.diff(sparsity[:21]) > 0)
    np.testing.assert_allclose(sparsity[20:], 0.82, rtol=1e-6)


def test_logarithmic_is_the_formula():
    schedule = schedules.logarithmic(0.9, curvature=100, steps=7)
    for k in range(1, 8):
        expected = 0.9 * math.log(1 + 100 * k / 7) / math.log(101)
        assert float(schedule(k)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("curvature", "half"), [(10, 0.75), (100, 0.85)])
def test_logarithmic_at_half_the_steps(curvature, half):
    schedule = schedules.logarithmic(0.8, curvature, steps=10)
    assert float(schedule(5)) == pytest.approx(0.8 * half, abs=0.005)


def test_cubic_and_one_shot():
    assert float(schedules.cubic(0.8, steps=2)(1)) == pytest.approx(0.8 * 0.875)
    assert schedules.one_shot(0.3).steps == 1
    assert float(schedules.one_shot(0.3)(1)) == pytest.approx(0.3)


@pytest.mark.parametrize("final", [-0.1, 1.0, 1.5, math.nan])
def test_sparsity_outside_zero_one(final):
    with pytest.raises(ValueError, match=r"final sparsity must be in \[0, 1\)"):
        schedules.linear(final, steps=3)


@pytest.mark.parametrize("steps", [0, -1, 2.5])
def test_no_steps(steps):
    with pytest.raises(ValueError, match="steps must be a whole number"):
        schedules.cubic(0.5, steps)


@pytest.mark.parametrize("curvature", [0, -1, math.inf, math.nan])
def test_curvature_out_of_range(curvature):
    with pytest.raises(ValueError, match="curvature must be positive"):
        schedules.logarithmic(0.5, curvature, steps=3)
