"""The short versions of the benchmarks: that figures come out, not what they are."""

import json
import math

import jax
import pytest

from experiments import benchmark
from experiments.benchmarks import figure


@pytest.mark.parametrize("name", ["bytes", "growth"])
def test_short(name, tmp_path, capsys):
    assert benchmark.main([name, "--short", "--out", str(tmp_path)]) == 0
    document = json.loads((tmp_path / "benchmark.json").read_text())
    assert document["device"]
    assert document["versions"]["jax"] == jax.__version__
    figures = document["figures"][name]
    assert figures
    assert all(math.isfinite(f["value"]) for f in figures)
    assert all(f["low"] <= f["value"] <= f["high"] for f in figures)
    assert "median" in capsys.readouterr().out
    if name == "growth":
        assert "<svg" in (tmp_path / "growth.svg").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["thresholds", "compact", "chain", "training", "startup"]
)
def test_short_slow(name, tmp_path, capsys):
    test_short(name, tmp_path, capsys)


def test_unknown_name(capsys):
    assert benchmark.main(["treshold"]) == 2
    assert "is it thresholds" in capsys.readouterr().err


def test_no_torch(tmp_path):
    from experiments.benchmarks import training

    job = training._Job("", None, "mobilenet", steps=1, times=1.0)
    with pytest.raises(ValueError, match="pip install torch"):
        training._torch_turn(tmp_path / "python", job, 1, {})


def test_met():
    assert figure.single("", 3, "×", least=2).met is True
    assert figure.single("", 3, "×", most=2).met is False
    assert figure.single("", 3, "×").met is None
    assert figure.ratio("", [2, 4, 9], [1, 2, 3], most=2).value == 2


def test_candidates_take_turns():
    calls = []
    seconds = figure.alternate(
        {name: lambda name=name: calls.append(name) for name in "ab"}, turns=2
    )
    assert calls == list("ababab")
    assert {name: len(s) for name, s in seconds.items()} == {"a": 2, "b": 2}
