"""Checkpoints of one phase: the newest good state, safe against being killed."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from experiments.errors import RunError


class Checkpoints:
    """The two newest states of a phase in `folder`, by step.

    Args:
      folder: created if it is not there.
      every: seconds between two saves, see `due`.
    """

    def __init__(self, folder: Path | str, *, every: float = 60.0):
        self.folder = Path(folder).absolute()
        self.every = every
        self._saved_at = time.monotonic()
        with _one_line(self.folder):
            self._manager = ocp.CheckpointManager(
                self.folder, options=ocp.CheckpointManagerOptions(max_to_keep=2)
            )

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.every

    def save(self, step: int, state: Any) -> None:
        """Writes `state` beside the others; an older one goes once it is complete."""
        if self.latest_step == step:
            return
        with _one_line(self.folder):
            self._manager.save(step, args=ocp.args.StandardSave(state))
            self._manager.wait_until_finished()
        self._saved_at = time.monotonic()

    def restore(self, like: Any) -> Any:
        """The newest state, with the structure, dtypes and shardings of `like`."""
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        args = ocp.args.StandardRestore(abstract)
        return self._manager.restore(self.latest_step, args=args)

    def close(self) -> None:
        self._manager.close()


@contextlib.contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Turns what the file system or Orbax complains of into a `RunError`."""
    orbax_log = logging.getLogger("absl")
    level = orbax_log.level
    orbax_log.setLevel(logging.CRITICAL)  # it prints a traceback per thread
    try:
        yield
    except Exception as error:
        full = "no space left" in str(error).lower()
        if not full and not isinstance(error, OSError):
            raise
        why = "the disk is full" if full else str(error)
        raise RunError(
            f"cannot write a checkpoint: {why} ({folder}); "
            "the checkpoints written before are kept, start again to go on"
        ) from error
    finally:
        orbax_log.setLevel(level)
