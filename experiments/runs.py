"""A run's folder: which config it belongs to, its metrics, its phases' results.

config.json           the config and the versions it ran with
metrics.jsonl         one JSON object a line: phase, step, epoch, loss, accuracy, …
tensorboard/<phase>/  the same as events
phases/<name>/        checkpoints; result.json once the phase is finished
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from tensorboardX import SummaryWriter

import jaxprune
from experiments.checkpoints import Checkpoints
from experiments.errors import RunError

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """A folder that belongs to one config; see `open_run`."""

    folder: Path
    checkpoint_every: float = 60.0

    def phase(self, name: str) -> "Phase":
        return Phase(self, name)


class Phase:
    """A named part of a run with its own checkpoints, metrics and result."""

    def __init__(self, run: Run, name: str):
        self.name = name
        self.folder = run.folder / "phases" / name
        self.metrics = run.folder / "metrics.jsonl"
        self.checkpoints = Checkpoints(
            self.folder / "checkpoints", every=run.checkpoint_every
        )
        self._events_folder = run.folder / "tensorboard" / name
        self._events: SummaryWriter | None = None

    @property
    def result(self) -> Record | None:
        """What `finish` was given; None while the phase is unfinished."""
        path = self.folder / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def finish(self, result: Record) -> None:
        write_text(self.folder / "result.json", json.dumps(result, indent=2))

    def rewind(self, step: int) -> None:
        """Forgets what was logged after `step`: those updates are made again."""
        if not self.metrics.exists():
            return
        text = self.metrics.read_text()
        kept = [
            line
            for line in text.splitlines()
            if (record := _parsed(line)) is not None
            and not (record["phase"] == self.name and record["step"] > step)
        ]
        rewound = "".join(line + "\n" for line in kept)
        if rewound != text:
            write_text(self.metrics, rewound)

    def log(self, record: Record) -> None:
        """Appends `{"phase": …, **record}`; numbers go to TensorBoard too."""
        record = {"phase": self.name, **record}
        step = record["step"]
        with one_line(self.metrics):
            if self._events is None:
                folder = str(self._events_folder)
                self._events = SummaryWriter(folder, purge_step=step)
            with self.metrics.open("a") as file:
                file.write(json.dumps(record) + "\n")
            for name, value in record.items():
                if isinstance(value, int | float) and name != "step":
                    self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self.checkpoints.close()
        if self._events is not None:
            self._events.close()


@contextlib.contextmanager
def open_run(
    folder: Path | str,
    config: Any,
    *,
    checkpoint_every: float = 60.0,
    free: Sequence[str] = (),
) -> Iterator[Run]:
    """Starts a run in `folder`, or goes on with the one of the same config there.

    Args:
      folder: created if need be; only one process may have it open.
      config: a dataclass; written to `config.json`, compared when it is there; a field
        that came later had its default.
      checkpoint_every: seconds between two checkpoints.
      free: names of fields that may differ from the config of the earlier start.

    Raises:
      RunError: the folder belongs to another config or to something else, is open in
        another process, or cannot be written to.
    """
    folder = Path(folder).absolute()
    config, defaults = (
        {k: v for k, v in _plain(fields).items() if k not in free}
        for fields in (dataclasses.asdict(config), _defaults(config))
    )
    with contextlib.ExitStack() as stack:
        with one_line(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _check_owner(folder, config, defaults)
            lock = stack.enter_context((folder / "lock").open("a"))
            _lock(lock, folder)
            record = {"config": config, "versions": versions()}
            write_text(folder / "config.json", json.dumps(record, indent=2))
        yield Run(folder, checkpoint_every)


def versions() -> dict[str, str]:
    """What a result depends on beside the config: software and device."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
    return {
        "jaxprune": jaxprune.__version__,
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
    }


def write_text(path: Path, text: str) -> None:
    """Writes beside, then renames: the file is the old one or the new one, whole."""
    beside = path.with_name(path.name + ".new")
    with one_line(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


@contextlib.contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turns an `OSError` under `path` into a `RunError` that says what is wrong."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise RunError(f"cannot write to the run's folder: {why} ({path})") from error


def _defaults(config: Any) -> Record:
    fields = dataclasses.fields(config)
    return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""

    def plain(x: Any) -> Any:
        return dataclasses.asdict(x) if dataclasses.is_dataclass(x) else str(x)

    return json.loads(json.dumps(value, default=plain))


def _check_owner(folder: Path, config: Record, defaults: Record) -> None:
    path = folder / "config.json"
    if not path.exists():
        there = sorted(p.name for p in folder.iterdir() if p.name != "lock")
        if there:
            raise RunError(
                f"{folder} is not the folder of a run: it has no config.json but "
                f"{', '.join(there[:3])}; choose another --workdir"
            )
        return
    try:
        before = {**defaults, **json.loads(path.read_text())["config"]}
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is not a run's config.json; is it damaged?") from error
    changed = differences(before, config)
    if changed:
        raise RunError(
            f"{folder} belongs to a run with another config ({', '.join(changed)}); "
            "choose another --workdir"
        )


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """`["field: old → new", …]`, with dots between nested fields."""
    if isinstance(old, dict) and isinstance(new, dict):
        prefix = f"{name}." if name else ""
        return [
            line
            for key in {**old, **new}
            for line in differences(
                old.get(key, "absent"), new.get(key, "absent"), prefix + key
            )
        ]
    return [] if old == new else [f"{name}: {old} → {new}"]


def _lock(file: Any, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunError(f"another process is running in {folder}") from error


def _parsed(line: str) -> Record | None:
    """The record in a line; None for a line that was cut short."""
    try:
        return json.loads(line)
    except ValueError:
        return None
