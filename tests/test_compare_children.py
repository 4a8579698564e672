"""That the runs of a comparison are made, stop and fail as they should."""

import io
import os
import signal
import sys
import threading
import time

import pytest
from comparing import finish, make, succeed
from rich.console import Console

from experiments.comparison import children
from experiments.comparison.board import Board


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
