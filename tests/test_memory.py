"""The memory command on a small network: the figures come out and fit together."""

import pytest

from experiments import memory


@pytest.mark.slow  # compiles for a minute
def test_figures_come_out():
    small = memory.Config(network="alexnet", width=0.02, image_size=64, batch_size=2)
    found = memory.run(small)
    gib = found["gib"]
    count = found["parameters"]
    assert gib["weights"] == pytest.approx(4 * count / memory.GIB)
    # Momentum and dormant weights, 4 bytes each, and a byte of mask; some counters.
    assert 8.9 * count < gib["optimizer"] * memory.GIB < 9 * count + 4096
    assert gib["temporaries"] > gib["weights"]
    assert 0 < gib["program"] < gib["peak"]
    assert found["sparsity"] == pytest.approx(1 - 1 / 11.7, abs=1 / count)
