"""How a run is going: one live line on a terminal, a plain line now and then elsewhere.

A phase's line: name, epoch, images/s, loss, accuracy, what the method reports, time
left for the phase and, in brackets, for all phases.
"""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from experiments.screen import Screen, clock

Record = dict[str, Any]

_PLAIN_SECONDS = 10.0
_KNOWN = frozenset({"step", "epoch", "loss", "accuracy"})


class Progress(Screen):
    """Shows the phases of a run; a context manager.

    Args:
      steps: updates of each phase, in order, for the time left overall.
      console: where to print; the terminal by default.
    """

    def __init__(
        self, steps: Mapping[str, int] | None = None, *, console: Console | None = None
    ):
        super().__init__(console)
        self.steps = dict(steps or {})
        self._shown_at = -_PLAIN_SECONDS
        self._phase, self._total, self._batch_size = "", 1, 1
        self._seconds: float | None = None  # per image, smoothed

    def start(self, phase: str, step: int, total: int, batch_size: int) -> None:
        """Announces a phase; `step` is above 0 when it goes on from a checkpoint."""
        self._phase, self._total, self._batch_size = phase, total, batch_size
        self._seconds = None
        if 0 < step < total:
            self.say(f"{phase}: going on at step {step} of {total}")

    def skip(self, phase: str) -> None:
        """Announces a phase that an earlier start has finished."""
        self.say(f"{phase}: finished before, loaded")
        self.steps.pop(phase, None)

    def show(self, record: Record, images_per_second: float | None) -> None:
        """The newest metrics of the phase; no rate while something was compiled."""
        if images_per_second is not None:
            new = 1 / images_per_second
            self._seconds = 0.8 * (self._seconds or new) + 0.2 * new
        now = time.monotonic()
        if self.live:
            self.update(Text(self._line(record), overflow="ellipsis"))
        elif now - self._shown_at >= _PLAIN_SECONDS:
            self._shown_at = now
            self.say(self._line(record))

    def epoch(self, record: Record) -> None:
        """A line that stays, with the metrics of an epoch's end."""
        self._shown_at = time.monotonic()
        tested = [f"test accuracy {100 * record['test_accuracy']:.2f} %"]
        rest = {k: v for k, v in record.items() if not k.startswith("test_")}
        parts = [f"{self._phase} epoch {record['epoch']:g}", *_values(rest), *tested]
        self.say(" · ".join(parts))

    def _line(self, record: Record) -> str:
        step = record["step"]
        parts = [
            f"{self._phase} {100 * step / self._total:3.0f} %",
            f"step {step}/{self._total}",
            *_values(record),
        ]
        if self._seconds is not None:
            parts.insert(2, f"{1 / self._seconds:.0f} images/s")
            parts.append(self._time_left(self._total - step))
        return " · ".join(parts)

    def _time_left(self, steps: int) -> str:
        per_step = self._seconds * self._batch_size
        after = self._steps_after()
        in_all = f" ({clock((steps + after) * per_step)} in all)" if after else ""
        return f"{clock(steps * per_step)}{in_all} left"

    def _steps_after(self) -> int:
        names = list(self.steps)
        after = names.index(self._phase) + 1 if self._phase in names else len(names)
        return sum(self.steps[name] for name in names[after:])


def _values(record: Record) -> list[str]:
    own = [
        f"{name.replace('_', ' ')} {value:{',' if isinstance(value, int) else '.4g'}}"
        for name, value in record.items()
        if name not in _KNOWN and isinstance(value, int | float)
    ]
    return [
        f"loss {record['loss']:.3f}",
        f"accuracy {100 * record['accuracy']:.1f} %",
        *own,
    ]
