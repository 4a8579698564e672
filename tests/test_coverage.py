"""Models of many kinds and frameworks lose half of their groups, and nothing else."""

import json
import time

import jax
import numpy as np
import pytest

import jaxprune as jp
from experiments import coverage, zoo

ENTRIES = zoo.entries()


@pytest.fixture(autouse=True)
def _quick_compilation():
    with coverage.quick_compilation():
        yield


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if entry.slow else [])
        for name, entry in ENTRIES.items()
    ],
)
def test_half_of_the_groups_goes(name):
    result = coverage.cover(ENTRIES[name])
    why = "\n".join(result.reasons)
    assert result.relative <= 1e-4, why
    assert result.prunable >= ENTRIES[name].floor, why
    assert result.verdict == "exact"
    assert result.removed >= 0.3


@pytest.mark.parametrize("name", ["resnet50", "densenet121"])
def test_tracing_is_fast(name):
    model = ENTRIES[name].build()
    start = time.process_time()
    coupling = jp.trace_coupling(model.fn, model.variables, model.x)
    assert time.process_time() - start < 5
    assert coupling.size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, e in ENTRIES.items() if not e.slow])
def test_what_is_called_dead_makes_no_difference(name):
    """The reasoning by constants is at least as strict as the numbers."""
    model = ENTRIES[name].build()
    coupling = jp.trace_coupling(model.fn, model.variables, model.x)
    half = coverage.random_plan(coupling, model, ratio=0.5, seed=1)
    dead = coverage.dead_part(coupling, model, half)
    coverage.compare(model, dead).raise_if_different()


@pytest.mark.parametrize("name", ["paper-mobilenet", "paper-vgg16-bn"])
def test_constant_channels_of_the_papers_fold(name):
    """Half of all scales are zero, shifts keep both signs: alive βs must be made up."""
    model, rng = ENTRIES[name].build(), np.random.default_rng(0)

    def kill(path, leaf):
        scale = jp.paths.name(path).endswith("/scale")
        return leaf * (rng.random(leaf.shape) < 0.5) if scale else leaf

    variables = jax.tree.map_with_path(kill, model.variables)
    coupling = jp.trace_coupling(model.fn, variables, model.x[:1])
    judged = jp.judge(coupling, variables)
    dead = judged.verdicts <= jp.Verdict.MAP
    plan = jp.make_plan(coupling, variables, dead=dead)
    fold = judged.fold(plan)
    assert plan.removed
    assert fold.leaves
    jp.certify(
        *(model.fn, variables, jp.shrink(model.fn, plan, fold=fold)),
        *(plan.apply(variables, fold=fold), [model.x]),
        reasoning=judged.verdict(plan),
    ).raise_if_different()


def test_command_prints_and_writes(tmp_path, capsys):
    file = tmp_path / "made" / "coverage.json"
    assert coverage.main(["siamese", "equinox-mlp", "--json", str(file)]) == 0
    printed = capsys.readouterr()
    assert "2 of 2 models exact" in printed.out
    assert "1 of 2: siamese" in printed.err
    written = json.loads(file.read_text())
    assert [r["model"] for r in written] == ["siamese", "equinox-mlp"]
    assert all(r["relative"] <= 1e-4 and r["groups"] for r in written)


def test_command_says_what_fails_and_why(tmp_path, capsys, monkeypatch):
    def broken():
        raise RuntimeError("no such layer")

    picky = ENTRIES["siamese"]
    picky = zoo.Entry("picky", "linen", floor=1.0, build=picky.build)
    wrong = zoo.Entry("wrong", "linen", floor=0.5, build=broken)
    monkeypatch.setattr(zoo, "entries", lambda: {"picky": picky, "wrong": wrong})
    assert coverage.main(["--json", str(tmp_path / "c.json")]) == 1
    printed = capsys.readouterr().out
    assert "picky frozen:" in printed
    assert "an output of the function" in printed
    assert "RuntimeError: no such layer" in printed
    assert "0 of 2 models exact" in printed


def test_unknown_model_is_one_line(capsys):
    assert coverage.main(["siamse"]) == 2
    assert capsys.readouterr().err == (
        "error: no model 'siamse' in the zoo; is it siamese?\n"
    )
