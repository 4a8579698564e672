import dataclasses
import errno
import json
import os

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import runs
from experiments.checkpoints import Checkpoints
from experiments.errors import RunError
from experiments.runs import open_run


@dataclasses.dataclass(frozen=True)
class Inner:
    epochs: int = 3
    sizes: tuple[int, ...] = (24, 32)


@dataclasses.dataclass(frozen=True)
class Config:
    ratio: float = 5.6
    dense: Inner = Inner()
    workdir: str = "here"


def test_config_and_versions_are_written(tmp_path):
    with open_run(tmp_path / "a" / "run", Config(), free=("workdir",)) as run:
        written = json.loads((run.folder / "config.json").read_text())
    config = {"ratio": 5.6, "dense": {"epochs": 3, "sizes": [24, 32]}}
    assert written["config"] == config
    for name in ("jax", "flax", "optax", "jaxprune", "python", "platform", "device"):
        assert written["versions"][name]


def test_same_config_goes_on_and_another_is_refused(tmp_path):
    free = ("workdir",)
    with open_run(tmp_path, Config(), free=free):
        pass
    with open_run(tmp_path, Config(workdir="there"), free=free):
        pass
    other = Config(ratio=8.0, dense=Inner(epochs=5))
    expected = r"ratio: 5.6 → 8.0, dense.epochs: 3 → 5\); choose another"
    with pytest.raises(RunError, match=expected), open_run(tmp_path, other, free=free):
        pass


def test_fields_that_came_or_went_are_named():
    assert runs.differences({"a": 1, "b": {"c": 2}}, {"b": {"c": 2}, "d": 4}) == [
        "a: 1 → absent",
        "d: absent → 4",
    ]


def test_a_field_that_came_later_had_its_default(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": {"workdir": "here", "ratio": 8.0}}))
    with open_run(tmp_path, Config(ratio=8.0)):
        pass
    path.write_text(json.dumps({"config": {"workdir": "here", "ratio": 8.0}}))
    other = Config(ratio=8.0, dense=Inner(epochs=5))
    with pytest.raises(RunError, match=r"dense.*5"), open_run(tmp_path, other):
        pass


def test_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match=r"not the folder of a run.*thesis\.tex"):  # noqa: SIM117
        with open_run(tmp_path, Config()):
            pass


def test_damaged_config(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(RunError, match="is it damaged"), open_run(tmp_path, Config()):
        pass


def test_one_process_at_a_time(tmp_path):
    with (
        open_run(tmp_path, Config()),
        pytest.raises(RunError, match="another process is running"),
        open_run(tmp_path, Config()),
    ):
        pass


def test_read_only_folder(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(RunError, match="Read-only file system") as error:  # noqa: SIM117
        with open_run(tmp_path / "run", Config()):
            pass
    assert "\n" not in str(error.value)


def test_workdir_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write to the run's folder"):  # noqa: SIM117
        with open_run(tmp_path / "file", Config()):
            pass


@pytest.fixture
def phase(tmp_path):
    with open_run(tmp_path, Config()) as run:
        phase = run.phase("dense")
        yield phase
        phase.close()


def test_metrics_and_events(phase):
    phase.log({"step": 1, "loss": 2.5})
    assert json.loads(phase.metrics.read_text()) == {
        "phase": "dense",
        "step": 1,
        "loss": 2.5,
    }
    assert list((phase.folder.parents[1] / "tensorboard" / "dense").iterdir())


def test_rewinding_drops_later_lines_and_cut_ones(phase):
    for step in (1, 2, 3):
        phase.log({"step": step})
    with phase.metrics.open("a") as file:
        file.write('{"phase": "channels", "step": 9}\n{"phase": "den')
    phase.rewind(2)
    lines = [json.loads(line) for line in phase.metrics.read_text().splitlines()]
    assert [(r["phase"], r["step"]) for r in lines] == [
        ("dense", 1),
        ("dense", 2),
        ("channels", 9),
    ]


def test_full_disk_while_logging(phase):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    phase.metrics.symlink_to("/dev/full")
    with pytest.raises(RunError, match="No space left on device"):
        phase.log({"step": 1})


def test_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, every=0.0)
    state = {"w": np.arange(3.0), "none": None}
    checkpoints.save(1, state)

    def full():
        raise ValueError("RESOURCE_EXHAUSTED: write failed: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._manager, "wait_until_finished", full)
        with pytest.raises(RunError, match=r"the disk is full.*start again"):
            checkpoints.save(2, state)
    checkpoints.close()


def test_checkpoints_restore_the_newest(tmp_path):
    for steps in ((1, 2), (3, 3)):
        checkpoints = Checkpoints(tmp_path)
        for step in steps:
            checkpoints.save(step, (jnp.arange(3.0) + step, None))
        checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    restored, none = checkpoints.restore((jnp.zeros(3), None))
    checkpoints.close()
    assert none is None
    np.testing.assert_array_equal(restored, [3.0, 4.0, 5.0])
