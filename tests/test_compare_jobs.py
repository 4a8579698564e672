"""Which runs a comparison is made of, and the command of each."""

import dataclasses
import sys
from pathlib import Path

from comparing import BASE, make

from experiments import branches, cli, data
from experiments.comparison import convnet, jobs
from experiments.comparison.jobs import arguments
from experiments.comparison.methods import METHODS
from experiments.experiment import Experiment


def test_each_seed_begins_with_its_dense_network(tmp_path):
    made = make(tmp_path, ("dense", "stepwise", "2_of_4"), (4.0, 8.0), (0, 3))
    assert [job.name for job in made] == [
        f"{name}_seed{seed}"
        for seed in (0, 3)
        for name in ("dense", "stepwise_4x", "2_of_4", "stepwise_8x")
    ]
    dense, stepwise = made[4], made[7]
    assert dense.config.methods == ("dense",)
    assert dense.config.start_from is None
    assert stepwise.after is dense
    assert stepwise.config.start_from == dense.config.workdir
    assert (stepwise.config.seed, stepwise.config.ratio) == (3, 8.0)


def test_what_starts_from_scratch_waits_for_nothing(tmp_path):
    dense, rigl, small = make(tmp_path, ("rigl", "small"))
    for job in (rigl, small):
        assert job.after is None
        assert job.config.start_from is None
        assert job.epochs == dense.epochs == BASE.epochs + BASE.prune_epochs


def test_all_methods_have_one_ratio_of_parameters(tmp_path):
    for job in make(tmp_path, METHODS, (6.0,)):
        if "ratio" not in METHODS[job.method].fields:
            ratios = job.config.ratio, job.config.params_ratio, job.config.macs_ratio
            assert ratios == (6.0, 6.0, 1.0)


def test_the_command_of_a_run_gives_its_config(tmp_path):
    for job in make(tmp_path, METHODS):
        python, *line = jobs.command(job, "convnet")
        assert (python, line[:2]) == (sys.executable, ["-m", convnet.__name__])
        given = line[2:]
        parsed = cli.parse(convnet.PRESETS, lambda: "none", given)
        assert parsed == ("smoke", job.config)


def test_the_experiment_takes_every_method(tmp_path):
    dataset = data.load("digits")
    for job in make(tmp_path, METHODS):
        config = dataclasses.replace(job.config, start_from=None)
        branches.check(Experiment(config, convnet.CONVNET, dataset, None, None))


def test_arguments_of_every_kind():
    changed = dataclasses.replace(
        BASE, aux_at=(), recover=False, data_dir=Path("a b"), schedule="cubic"
    )
    given = ["--data-dir", "a b", "--aux-at", "--schedule", "cubic", "--no-recover"]
    assert arguments(BASE, changed) == given
    assert arguments(changed, BASE)[:3] == ["--data-dir", "None", "--aux-at"]
    assert arguments(BASE, BASE) == []
