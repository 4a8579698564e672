"""A comparison: which runs there are, that they run, what is told of them."""

import dataclasses
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from experiments import branches, cli, compare, data
from experiments.comparison import children, convnet, jobs, tables
from experiments.comparison.board import Board
from experiments.comparison.jobs import Shared, arguments, make_jobs
from experiments.comparison.methods import METHODS
from experiments.comparison.plot import plot
from experiments.comparison.summary import spread, summarise
from experiments.experiment import Experiment

BASE = dataclasses.replace(Shared.of(convnet.SMOKE), width=0.25)
COSTS = {"accuracy": 0.9, "params": 1000, "nonzero": 1000, "macs": 5000}


def make(folder, methods=("stepwise", "small"), ratios=(4.0,), seeds=(0,)):
    return make_jobs(BASE, folder, methods, ratios, seeds)


def report(job, **costs):
    """As much of a run's report as a comparison reads."""
    network = {**COSTS, **costs}
    about = {"data": "made up", "device": "some CPU", "versions": {"jax": "1.2"}}
    return json.dumps({"networks": {job.config.methods[0]: network}, **about})


def finish(job, **costs):
    job.config.workdir.mkdir(parents=True)
    (job.config.workdir / "report.json").write_text(report(job, **costs))


def succeed(job, **costs):
    """A command that does at once what the run of a job does in the end."""
    folder = shlex.quote(str(job.config.workdir))
    told = shlex.quote(report(job, **costs))
    return ["sh", "-c", f"mkdir -p {folder}; echo {told} > {folder}/report.json"]


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


@pytest.fixture
def board(tmp_path):
    with Board() as board:
        yield board


def test_runs_are_made_once(tmp_path, board, capsys):
    made = make(tmp_path)
    seen = []

    def command(job):
        seen.append(job.name)
        return succeed(job)

    assert children.run(made, command, board, at_once=2) == {}
    assert sorted(seen) == sorted(job.name for job in made)
    assert seen.index("dense_seed0") < seen.index("stepwise_4x_seed0")
    assert "stepwise_4x_seed0: 90.00 %" in capsys.readouterr().out
    assert made[0].log.read_text().startswith("$ sh -c ")
    more = make(tmp_path, ("stepwise", "small", "cubic"))
    seen.clear()
    assert children.run(more, command, board) == {}
    assert seen == ["cubic_4x_seed0"]
    assert "4 runs, 3 of them finished before" in capsys.readouterr().out


def test_a_failure_is_one_line_and_stays_alone(tmp_path, board, capsys):
    made = make(tmp_path, ("stepwise", "small", "cubic", "rigl", "linear"))
    scripts = {
        "stepwise": "echo working; echo; echo 'error: a b' >&2; exit 2",
        "cubic": "exit 3",
        "rigl": "kill -9 $$",
        "linear": "true",
    }

    def command(job):
        script = scripts.get(job.method)
        return ["sh", "-c", script] if script else succeed(job)

    failed = children.run(made, command, board, at_once=2)
    assert failed == {
        "stepwise_4x_seed0": "a b",
        "cubic_4x_seed0": "exit status 3",
        "rigl_4x_seed0": "killed by SIGKILL",
        "linear_4x_seed0": "ended without a report",
    }
    assert made[2].finished
    assert "stepwise_4x_seed0: failed: a b" in capsys.readouterr().out
    assert children.run(made, succeed, board) == {}


def test_without_its_dense_network_a_method_is_not_run(tmp_path, board):
    made = make(tmp_path, seeds=(0, 1))

    def command(job):
        return ["false"] if job.name == "dense_seed0" else succeed(job)

    assert children.run(made, command, board) == {
        "dense_seed0": "exit status 1",
        "stepwise_4x_seed0": "not run, since dense_seed0 failed",
    }


def _last(log):
    return log.read_text().splitlines()[-1]


SAVES = """
import pathlib, signal, sys, time
def save(*_):
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(130)
signal.signal(signal.SIGINT, save)
print("ready", flush=True)
time.sleep(60)
"""


def test_ctrl_c_reaches_each_run_once_and_waits_for_it(tmp_path, board):
    made = make(tmp_path, ("small",))

    def command(job):
        return [sys.executable, "-c", SAVES, str(tmp_path / job.name)]

    def interrupt():
        logs = [job.log for job in made]
        while not all(log.exists() and _last(log) == "ready" for log in logs):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        children.run(made, command, board, at_once=2)
    thread.join()
    assert all((tmp_path / job.name).read_text() == "saved" for job in made)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no core affinity")
def test_cores_are_dealt_out(monkeypatch, tmp_path, board):
    cores = os.sched_getaffinity(0)
    asked = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4})
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, own: asked.append(own))
    children.run(make(tmp_path, ("small",)), succeed, board, at_once=2)
    assert asked[0] == {0, 2, 4}
    assert asked[2] == {1, 3}
    monkeypatch.undo()
    assert os.sched_getaffinity(0) == cores


def test_time_left_comes_from_the_epochs_done(tmp_path, monkeypatch, capsys):
    dense, stepwise, small = made = make(tmp_path)
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    board = Board()
    board.begin(made, made)
    now[0] += 60
    finish(dense)
    board.ended(dense, None)
    epochs = stepwise.epochs + small.epochs
    left = 60 * epochs / dense.epochs
    out = capsys.readouterr().out
    assert f"· {int(left // 60)}:{int(left % 60):02} left" in out


def test_a_terminal_shows_the_newest_line_of_each_run(tmp_path):
    from rich.console import Console

    job, *_ = made = make(tmp_path)
    job.log.parent.mkdir()
    job.log.write_text("$ python\ndense 12 % · step 3/9\n")
    console = Console(force_terminal=True, width=80, record=True, file=io.StringIO())
    with Board(console) as board:
        board.begin(made, made)
        board.show([job])
        shown = console.export_text()
    assert "dense_seed0: dense 12 % · step 3/9" in shown
    assert "0/3 runs" in shown


def test_mean_and_spread():
    found = spread([0.90, 0.94, None, 0.92])
    assert found == {"mean": pytest.approx(0.92), "spread": pytest.approx(0.02)}
    assert spread([0.9]) == {"mean": 0.9, "spread": None}
    assert spread([None]) is None


@pytest.fixture
def made(tmp_path):
    """Two seeds; of one stepwise run has failed."""
    made = make(tmp_path, ("stepwise", "channels"), (4.0, 8.0), (0, 1))
    accuracies = {
        "dense": (0.95, 0.97),
        "stepwise": (0.94, 0.98),
        "channels": (0.90, 0.90),
    }
    for job in made:
        seed, small = job.config.seed, 1000 // int(job.ratio)
        costs = {"accuracy": accuracies[job.method][seed], "nonzero": small}
        if job.method == "channels":
            costs["macs"] = 2500
        if job.name != "stepwise_8x_seed1":
            finish(job, **costs)
    return made


@pytest.fixture
def summary(made):
    return summarise("net <on> data", made, {"stepwise_8x_seed1": "NaN | at step 7"})


def test_rows_compare_with_the_dense_network_of_the_same_seed(summary):
    rows = {(row["method"], row["ratio"]): row for row in summary["rows"]}
    assert list(rows) == [
        ("dense", 1.0),
        ("stepwise", 4.0),
        ("stepwise", 8.0),
        ("channels", 4.0),
        ("channels", 8.0),
    ]
    row = rows["stepwise", 4.0]
    assert row["accuracy"]["mean"] == pytest.approx(0.96)
    assert row["accuracy"]["spread"] == pytest.approx(0.04 / 2**0.5)
    assert row["delta"]["mean"] == pytest.approx(0)
    assert row["delta"]["spread"] == pytest.approx(0.02 / 2**0.5)
    assert row["params_ratio"] == {"mean": 4.0, "spread": 0.0}
    assert row["macs_ratio"]["mean"] == 1.0
    assert rows["channels", 4.0]["macs_ratio"]["mean"] == 2.0
    failed = rows["stepwise", 8.0]
    assert (failed["finished"], failed["runs"]) == (1, 2)
    assert failed["errors"] == {"stepwise_8x_seed1": "NaN | at step 7"}
    assert failed["delta"] == {"mean": pytest.approx(-0.01), "spread": None}
    assert summary["device"] == "some CPU"


def test_a_table_of_failures_alone(tmp_path):
    made = make(tmp_path)
    summary = summarise("nothing", made, {job.name: "no data" for job in made})
    assert tables.cells(summary)[0][2:7] == ["0 of 1", "–", "", "–", "–"]
    ElementTree.fromstring(plot(summary))
    assert "small_4x_seed0 failed: no data" in tables.html(summary)


def test_the_table_in_the_terminal(summary):
    lines = [" ".join(line.split()) for line in tables.text(summary).splitlines()]
    for start in (
        "dense 1× 2 of 2 96.00 ± 1.41 1.0× 1.0× dense network",
        "stepwise 4× 2 of 2 96.00 ± 2.83 +0.00 ± 1.41 4.0× 1.0× active stepwise",
        "stepwise 8× 1 of 2 94.00 -1.00 8.0× 1.0× active stepwise",
        "channels 8× 2 of 2 90.00 -6.00 ± 1.41 8.0× 2.0× channel pruning",
    ):
        assert any(line.startswith(start) for line in lines), start


def test_the_table_in_markdown(summary):
    text = tables.markdown(summary, figure="plot.svg")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "stepwise_8x_seed1 failed: NaN \\| at step 7" in text
    assert "![Accuracy against ratio](plot.svg)" in text


def test_the_page_is_self_contained(summary):
    page = tables.html(summary)
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert "<h1>net &lt;on&gt; data</h1>" in page
    assert "some CPU" in page
    assert page == tables.html(json.loads(json.dumps(summary)))


def test_the_plot_names_all_methods(summary):
    drawing = plot(summary)
    ElementTree.fromstring(drawing)
    for text in ("dense", "stepwise", "channels", "test accuracy"):
        assert text in drawing


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
    assert told["rows"][2]["errors"] == {"cubic_30x_seed1": "exit status 1"}
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
        assert row["params_ratio"]["mean"] == pytest.approx(30, rel=0.3)
    assert stepwise["accuracy"]["mean"] > random["accuracy"]["mean"]
    assert channels["macs_ratio"]["mean"] > 1.5
