"""The whole run on a small network: what is written is what was asked for."""

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxprune as jp
from experiments import branches, pipeline
from experiments.branches import sparsity_for
from experiments.config import Config
from experiments.data import Dataset
from experiments.errors import RunError
from experiments.experiment import Architecture, Experiment
from experiments.models.chain import Chain, Pool
from experiments.models.chain import Conv as ConvReLU
from experiments.models.heads import Head, drop_heads
from experiments.models.layers import BatchNorm, Conv
from experiments.progress import Progress
from experiments.runs import Run


class Net(nn.Module):
    classes: int
    width: float
    aux_at: tuple[int, ...]

    @nn.compact
    def __call__(self, x, train=False):
        aux = []
        for depth in (1, 2, 3):
            x = BatchNorm()(Conv(max(1, int(16 * self.width)), stride=2)(x), train)
            if depth in self.aux_at and (train or self.is_initializing()):
                aux.append(Head(self.classes, name=f"aux_{depth}")(x))
        logits = nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
        return (logits, tuple(aux)) if train and self.aux_at else logits


pytestmark = pytest.mark.xdist_group("pipeline")  # one run for all tests

NET = Architecture("Net", Net, depth=3, prunable=jp.paths.kernels)

_LAYERS = (ConvReLU(8, stride=2), Pool(), ConvReLU(12, stride=2), Pool())
PLAIN, NORMED = (
    Architecture(name, partial(Chain, _LAYERS, **fields), 2, jp.paths.kernels)
    for name, fields in {"plain": {"hidden": (16,)}, "normed": {"norm": True}}.items()
)


@pytest.fixture(scope="module")
def dataset():
    """Four classes that differ in which quarter of the image is bright."""
    rng = np.random.default_rng(0)

    def split(count):
        labels = rng.integers(0, 4, count).astype(np.int32)
        images = rng.integers(0, 120, (count, 32, 32, 3))
        for image, label in zip(images, labels, strict=True):
            row, column = 16 * (label // 2), 16 * (label % 2)
            image[row : row + 16, column : column + 16] += 100
        return images.astype(np.uint8), labels

    return Dataset("mnist", *split(256), *split(64), tuple("abcd"), "made up")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return Config(
        workdir=tmp_path_factory.mktemp("runs") / "run",
        aux_at=(2,),
        epochs=2,
        prune_epochs=4,
        sparsify_epochs=2,
        batch_size=32,
        pruning_steps=3,
        ratio=3.0,
        params_ratio=2.5,
        macs_ratio=2.0,
        l1_scale=1e-2,
        l1_shift=1e-2,
    )


@pytest.fixture(scope="module")
def report(config, dataset):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.data.load", lambda name, data_dir: dataset)
        return pipeline.run(config, NET)


def test_ratios_are_met_and_exact(report):
    dense, stepwise, channels = (
        report["networks"][name] for name in ("dense", "stepwise", "channels")
    )
    assert dense["params"] == dense["nonzero"] == stepwise["params"]
    assert stepwise["nonzero"] == round(dense["params"] / 3.0)
    assert stepwise["bytes"] < dense["bytes"] / 2
    assert channels["params"] <= dense["params"] / 2.5
    assert channels["macs"] <= dense["macs"] / 2.0
    assert all(n["accuracy"] > 0.5 for n in report["networks"].values())


def test_certificate_is_exact(report):
    certificate = report["certificate"]
    assert certificate["verdict"] == "exact"
    assert certificate["argmax_agreement"] == 1.0


def test_artifacts_are_what_the_report_says(report, config):
    for name, network in report["networks"].items():
        path = config.workdir / "artifacts" / f"{name}.safetensors"
        artifact = jp.artifact.load(path)
        assert path.stat().st_size == network["bytes"]
        assert artifact.metadata["accuracy"] == network["accuracy"]
        assert jp.nonzeros(artifact.variables["params"]) == network["nonzero"]
    assert artifact.plan.widths == {
        jp.paths.name(path): leaf.shape
        for path, leaf in jax.tree.leaves_with_path(artifact.variables)
    }


def test_the_folder_holds_the_report(report, config):
    assert json.loads((config.workdir / "report.json").read_text()) == report
    assert "<svg" in (config.workdir / "report.html").read_text()
    lines = (config.workdir / "metrics.jsonl").read_text().splitlines()
    phases = {json.loads(line)["phase"] for line in lines}
    assert phases == {
        "dense",
        "dense_longer",
        "stepwise",
        "channels_sparsify",
        "channels_finetune",
    }


def test_a_finished_run_gives_the_same_again(report, config, dataset, monkeypatch):
    monkeypatch.setattr("experiments.data.load", lambda name, data_dir: dataset)
    again = pipeline.run(config, NET)
    for name, network in again["networks"].items():
        before = report["networks"][name]
        assert {**network, "latency_ms": 0} == {**before, "latency_ms": 0}


def test_from_scratch_sees_as_many_images(config, dataset, monkeypatch):
    monkeypatch.setattr("experiments.data.load", lambda name, data_dir: dataset)
    workdir = config.workdir.parent / "scratch"
    fields = {"start": "scratch", "methods": ("dense", "stepwise")}
    config = dataclasses.replace(config, workdir=workdir, **fields)
    report = pipeline.run(config, NET)
    stepwise = report["networks"]["stepwise"]
    assert stepwise["nonzero"] == round(stepwise["params"] / 3.0)
    assert report["certificate"] is None
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    epochs = {r["phase"]: r["epoch"] for r in map(json.loads, lines)}
    assert epochs == {"dense_longer": 6, "stepwise": 6}


def test_a_chain_without_batch_norm_and_a_small_one(config, dataset, monkeypatch):
    monkeypatch.setattr("experiments.data.load", lambda name, data_dir: dataset)
    fields = {"start": "scratch", "methods": ("stepwise", "small"), "aux_at": ()}
    config = dataclasses.replace(
        config, workdir=config.workdir.parent / "plain", floor=0.05, **fields
    )
    report = pipeline.run(config, PLAIN)
    stepwise, small = (report["networks"][name] for name in ("stepwise", "small"))
    assert stepwise["nonzero"] == round(stepwise["params"] / 3.0)
    assert small["nonzero"] == small["params"]
    most = stepwise["params"] / config.params_ratio
    assert 0.9 * most < small["params"] <= most
    lines = (config.workdir / "metrics.jsonl").read_text().splitlines()
    epochs = {r["phase"]: r["epoch"] for r in map(json.loads, lines)}
    assert epochs == {"stepwise": 6, "small": 6}


def test_a_chain_with_batch_norm_loses_channels(config, dataset, monkeypatch):
    monkeypatch.setattr("experiments.data.load", lambda name, data_dir: dataset)
    fields = {"start": "scratch", "methods": ("channels",), "solver": "subgradient"}
    config = dataclasses.replace(
        config, workdir=config.workdir.parent / "normed", aux_at=(), **fields
    )
    report = pipeline.run(config, NORMED)
    channels = report["networks"]["channels"]
    assert channels["macs"] > 0
    assert report["certificate"]["verdict"] == "exact"


def test_channels_need_batch_norm(config, dataset, monkeypatch):
    monkeypatch.setattr("experiments.data.load", lambda name, data_dir: dataset)
    config = dataclasses.replace(
        config, workdir=config.workdir.parent / "refused", aux_at=()
    )
    with pytest.raises(
        ValueError, match=r"plain has no batch norm.*leave channels out"
    ):
        pipeline.run(config, PLAIN)
    assert not (config.workdir / "phases").exists()
    shutil.rmtree(config.workdir)


def starting_from(config, dataset, folder, architecture=NET, **fields):
    config = dataclasses.replace(config, start_from=Path(folder), **fields)
    run = Run(config.workdir.parent / "later")
    return Experiment(config, architecture, dataset, run, Progress())


def test_another_run_gives_the_dense_network(report, config, dataset):
    before = Experiment(config, NET, dataset, Run(config.workdir), Progress())
    dense = branches.train_dense(before)
    later = starting_from(config, dataset, config.workdir, aux_at=(1,), seed=5)
    branches.check(later)
    start = branches.start(later)
    chex.assert_trees_all_equal(drop_heads(start), drop_heads(dense))
    new = later.initial()["params"]["aux_1"]
    chex.assert_trees_all_equal(start["params"]["aux_1"], new)
    assert "aux_2" not in start["params"]
    assert not later.run.folder.exists()


def test_another_run_has_to_fit(report, config, dataset, tmp_path):
    start = partial(starting_from, config, dataset)
    untrained = tmp_path / "untrained"
    untrained.mkdir()
    shutil.copy(config.workdir / "config.json", untrained)
    for wrong, message in (
        (start(tmp_path), "not the folder of a run"),
        (start(untrained), "no dense network"),
    ):
        with pytest.raises(RunError, match=message):
            branches.check(wrong)
    for wrong, message in (
        (start(config.workdir, width=0.5), "other shapes than Net of width 0.5"),
        (start(config.workdir, data="digits"), "is on cifar10, not on digits"),
    ):
        with pytest.raises(ValueError, match=message):
            branches.check(wrong)


def test_a_folder_of_another_config_is_refused(report, config, dataset, monkeypatch):
    monkeypatch.setattr("experiments.data.load", lambda name, data_dir: dataset)
    other = dataclasses.replace(config, ratio=4.0, seed=1)
    with pytest.raises(RunError, match=r"seed: 0 → 1.*ratio: 3\.0 → 4\.0"):
        pipeline.run(other, NET)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ratio": 1000.0}, "not prunable: lower ratio"),
        ({"batch_size": 10**6}, "batch_size 1000000 is more than the"),
        ({"pruning_steps": 500}, "do not fit into"),
        ({"average_last": 0.5}, "average_last must be at most 0.4"),
    ],
)
def test_bad_values_are_refused_before_training(
    config, dataset, monkeypatch, fields, message
):
    monkeypatch.setattr("experiments.data.load", lambda name, data_dir: dataset)
    workdir = config.workdir.parent / "refused"
    with pytest.raises(ValueError, match=message):
        pipeline.run(dataclasses.replace(config, workdir=workdir, **fields), NET)
    assert not (workdir / "phases").exists()
    shutil.rmtree(workdir)


def test_sparsity_leaves_exactly_the_share_asked_for():
    params = {"Conv_0": {"kernel": jnp.ones((3, 3, 7, 11))}, "bias": jnp.ones(13)}
    sparsity = sparsity_for(5.6, params, jp.paths.kernels)
    zeros = round(sparsity * 693)
    assert 693 + 13 - zeros == round(706 / 5.6)
    with pytest.raises(ValueError, match="13 are not prunable: lower ratio"):
        sparsity_for(100.0, params, jp.paths.kernels)


def test_heads_are_dropped_anywhere():
    variables = {"params": {"aux_2": {"kernel": 1}, "Dense_0": {"kernel": 2}}}
    state = ({"aux_2": {"kernel": 1}, "Dense_0": {"kernel": 3}}, 7)
    assert drop_heads(variables) == {"params": {"Dense_0": {"kernel": 2}}}
    assert drop_heads(state) == ({"Dense_0": {"kernel": 3}}, 7)
