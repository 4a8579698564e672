"""The comparison from its command line to its tables; its presets."""

import json
import subprocess
import sys

import pytest
from comparing import succeed

from experiments import cli, compare
from experiments.comparison import jobs
from experiments.comparison.methods import METHODS


def call(folder, *args):
    given = ["--preset", "smoke", "--workdir", str(folder), *args]
    return cli.main(compare.run, compare.presets(), lambda: "quick", given)


def test_the_command_line_from_runs_to_tables(tmp_path, monkeypatch, capsys):
    def command(job, network):
        assert network == "convnet"
        assert job.config.epochs == 2
        fails = job.method == "cubic" and job.config.seed == 1 and not mended
        return ["false"] if fails else succeed(job)

    mended = []
    monkeypatch.setattr(compare, "command", command)
    args = ["--methods", "stepwise", "cubic", "--seeds", "0", "1", "--run.epochs", "2"]
    assert call(tmp_path / "out", *args) == 2
    err = capsys.readouterr().err
    assert "error: 1 of 6 runs failed; their logs are in" in err
    told = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert told["rows"][2]["errors"] == {"cubic_16x_seed1": "exit status 1"}
    mended.append(True)
    assert call(tmp_path / "out", *args) == 0
    out = capsys.readouterr().out
    assert "6 runs, 5 of them finished before" in out
    assert "active stepwise pruning" in out
    for kind in ("json", "md", "html", "svg"):
        assert (tmp_path / "out" / f"comparison.{kind}").stat().st_size > 500
    assert call(tmp_path / "out", *args[:-1], "3") == 2
    assert "run.epochs: 2 → 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--methods", "magic"], "--methods"),
        (["--network", "transformer"], "--network"),
        (["--ratios", "0.5"], "ratio must be 1 or more, got 0.5"),
        (["--jobs", "0"], "jobs must be 1 or more, got 0"),
        (["--run.epochs", "many"], "--run.epochs"),
        (["--run.ratio", "8"], "--run.ratio"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, capsys, args, message):
    assert call(tmp_path / "out", *args) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_help_tells_all_methods(capsys):
    with pytest.raises(SystemExit):
        call("out", "--help")
    out = " ".join(capsys.readouterr().out.split())
    for name, method in METHODS.items():
        assert f"{name}: {method.summary}"[:60] in out


def test_the_network_brings_its_own_presets():
    comparison = compare.presets("mobilenet")["smoke"].config
    assert comparison.network == "mobilenet"
    assert comparison.run.width == 0.25
    assert comparison.ratios == (4.0,)
    assert "channels" in comparison.methods
    plain = compare.presets("vgg16")["full"].config
    assert not {"channels", "slimming"} & set(plain.methods)
    assert {"dense", "small", "stepwise", "rigl"} <= set(plain.methods)
    assert plain.ratios == (8.3, 16.6, 33.2)
    assert (
        cli.peek("--network", jobs.NETWORKS, ["--network", "mobilenet"]) == "mobilenet"
    )
    assert cli.peek("--network", jobs.NETWORKS, ["--network=mobilenet"]) == "mobilenet"
    assert cli.peek("--network", jobs.NETWORKS, ["--network", "transformer"]) is None
    assert cli.peek("--network", jobs.NETWORKS, ["--network"]) is None


@pytest.mark.slow
def test_a_small_comparison_from_the_command_line(tmp_path):
    args = (
        "--preset smoke --seeds 0 --methods stepwise random channels small "
        "--run.epochs 2 --run.prune-epochs 4 --run.sparsify-epochs 2 --workdir"
    )
    line = [sys.executable, "-m", "experiments.compare", *args.split(), str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "comparison.json").read_text())["rows"]
    assert [row["method"] for row in rows] == [
        "dense", "small", "stepwise", "random", "channels"
    ]  # fmt: skip
    *_, stepwise, random, channels = rows
    for row in rows[1:]:
        assert row["params_ratio"]["mean"] == pytest.approx(16, rel=0.3)
    assert stepwise["accuracy"]["mean"] > random["accuracy"]["mean"]
    assert channels["macs_ratio"]["mean"] > 1.5
