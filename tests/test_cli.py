import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from experiments import cli
from experiments.data import DataError
from experiments.errors import NotFinite, RunError


@dataclasses.dataclass(frozen=True)
class Config:
    """Prunes things."""

    epochs: int = 3
    """Passes over the training images."""
    ratio: float = 5.6
    """Fewer parameters, by this factor."""

    def __post_init__(self):
        if self.epochs < 1:
            raise ValueError(f"epochs must be 1 or more, got {self.epochs}")


PRESETS = {
    "smoke": cli.Preset(Config(epochs=1), "digits, 4 minutes on 2 cores"),
    "quick": cli.Preset(Config(), "CIFAR-10, 40 minutes on 2 cores"),
}


def call(*args, run=lambda config: None):
    return cli.main(run, PRESETS, lambda: "quick", args)


def test_preset_and_overrides(capsys):
    seen = []
    assert call("--preset", "smoke", "--ratio", "8", run=seen.append) == 0
    assert seen == [Config(epochs=1, ratio=8.0)]
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "preset smoke: digits, 4 minutes on 2 cores"


def test_default_preset(capsys):
    seen = []
    assert call("--epochs", "7", run=seen.append) == 0
    assert seen == [Config(epochs=7)]
    assert capsys.readouterr().out.startswith("preset quick: CIFAR-10")
    assert cli.by_device(cpu="quick", accelerator="full") == "quick"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--preset", "huge"], "unknown preset 'huge': choose from smoke, quick"),
        (["--preset=smoke", "--epoch", "4"], "--epoch"),
        (["--preset"], "expected one argument"),
        (["smoke"], "smoke"),
        (["--epochs", "many"], "--epochs"),
        (["--epochs"], "--epochs"),
        (["--epochs", "0"], "epochs must be 1 or more, got 0"),
    ],
)
def test_bad_arguments_are_one_line(args, message, capsys):
    assert call(*args) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_help_explains_fields_and_presets(capsys):
    with pytest.raises(SystemExit) as exit:
        call("--help")
    assert exit.value.code == 0
    out = capsys.readouterr().out
    for text in ("Passes over the training images", "by this factor", "digits, 4 min"):
        assert text in out


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DataError("cifar10 was not found"), 2),
        (RunError("another process is running"), 2),
        (ValueError("sparsity must be in [0, 1), got 1.2"), 2),
        (NotFinite("NaN at step 7"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_known_errors_are_one_line(error, status, capsys):
    def run(config):
        raise error

    assert call(run=run) == status
    err = capsys.readouterr().err
    assert str(error) in err
    assert err.count("\n") == 1


def test_other_errors_keep_their_traceback(monkeypatch):
    def run(config):
        raise ValueError("deep inside")

    monkeypatch.setenv("JAXPRUNE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="deep inside"):
        call(run=run)


EXPERIMENT = """
import sys, time, harness
from experiments import cli, progress, runs, train

class Slow(progress.Progress):
    def show(self, record, rate):
        print("step", record["step"], flush=True)
        time.sleep(0.1 if sys.argv[2] == "slow" else 0)

def run(recipe):
    with runs.open_run(sys.argv[1], recipe) as run, Slow() as shown:
        arguments = harness.NETWORK, harness.variables(), harness.sgd()
        train.fit(*arguments, harness.images(), recipe, run=run, progress=shown)

presets = {"tiny": cli.Preset(train.Recipe(epochs=20, batch_size=16), "seconds")}
sys.exit(cli.main(run, presets, lambda: "tiny", []))
"""


def start(folder, pace):
    here = os.path.dirname(__file__)
    paths = os.pathsep.join([here, os.path.dirname(here)])
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder.parent / "xla")}
    return subprocess.Popen(
        [sys.executable, "-c", EXPERIMENT, str(folder), pace],
        env={**os.environ, "PYTHONPATH": paths, **cache},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path):
    process = start(tmp_path / "run", "slow")
    for line in process.stdout:
        if line == "step 3\n":
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (130, 1), err
    again = start(tmp_path / "run", "fast")
    out, err = again.communicate(timeout=60)
    assert (again.returncode, err) == (0, "")
    assert "going on at step" in out
    assert "step 1\n" not in out
    assert "step 80\n" in out


def test_second_ctrl_c_ends_at_once(tmp_path):
    process = start(tmp_path / "run", "slow")
    for line in process.stdout:
        if line == "step 3\n":
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGINT)
            break
    process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
