"""Metrics that are fetched late, so that nobody waits for the device."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.recipe import Recipe
from experiments.runs import Record

_DISPATCH_SECONDS = 0.5


class LateMetrics:
    """Fetches the metrics of a dispatch while the next one runs; sets their length.

    Args:
      recipe: its batch size and `log_every` count.
      fused: whether a dispatch may hold several updates.
      seen: called with the metrics of each dispatch and the images per second; None
        where something was compiled meanwhile.
    """

    def __init__(
        self, recipe: Recipe, fused: bool, seen: Callable[[Record, float | None], None]
    ):
        self.recipe, self.fused, self.seen = recipe, fused, seen
        self.pending: tuple[int, Any, bool] | None = None
        self.last: Record = {}
        self.px: int | None = None
        self.seconds_per_step = np.inf
        self.clock = time.perf_counter()

    def next_count(self, first: int, per_epoch: int) -> int:
        """Updates in the next dispatch: about half a second, no line of log crossed."""
        if not self.fused:
            return 1
        every = self.recipe.log_every
        room = min(every - first % every, per_epoch - first)
        return min(room, max(1, int(_DISPATCH_SECONDS / self.seconds_per_step)))

    def restart_clock(self) -> None:
        """Leaves out of the rate what was done since the last dispatch."""
        self.clock = time.perf_counter()

    def add(self, count: int, report: Any, px: int) -> None:
        """Takes a dispatch that was just made; one at a new size was compiled first."""
        self.flush()
        self.pending = (count, report, px == self.px)
        self.px = px

    def flush(self) -> Record:
        """Waits for the dispatch that is pending; returns the newest metrics."""
        if self.pending is not None:
            (count, report, timed), self.pending = self.pending, None
            record = {k: v.item() for k, v in jax.device_get(report).items()}
            now = time.perf_counter()
            seconds, self.clock = (now - self.clock) / count, now
            rate = None
            if timed:
                self.seconds_per_step = seconds
                rate = self.recipe.batch_size / seconds
            self.seen(dict(record), rate)
            self.last = {k: v for k, v in record.items() if k != "bad_step"}
        return self.last
