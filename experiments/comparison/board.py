"""How a comparison is going: a bar with the time left, and what each run says."""

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.comparison.jobs import Job
from experiments.screen import Screen, clock


class Board(Screen):
    """Shows the jobs of a comparison.

    On a terminal a bar and the newest line of each running job stay at the bottom; a
    line remains of each job that has ended, which is all that is printed elsewhere.
    """

    def __init__(self, console: Console | None = None):
        super().__init__(console)
        self._count = self._done = 0
        self._epochs = self._epochs_done = 0
        self._began = time.monotonic()
        self._ends_at: float | None = None

    def begin(self, jobs: Sequence[Job], waiting: Sequence[Job]) -> None:
        """`jobs` are all there are; those not `waiting` were finished before."""
        self._count, self._done = len(jobs), len(jobs) - len(waiting)
        self._epochs = sum(job.epochs for job in waiting)
        self._began = time.monotonic()
        before = f", {self._done} of them finished before" if self._done else ""
        self.say(f"{self._count} runs{before}")

    def ended(self, job: Job, error: str | None) -> None:
        """A job is done, or has failed."""
        self._done += 1
        self._epochs_done += job.epochs
        now = time.monotonic()
        pace = (now - self._began) / self._epochs_done
        self._ends_at = now + pace * (self._epochs - self._epochs_done)
        found = (
            f"failed: {error}" if error else f"{100 * job.measured['accuracy']:.2f} %"
        )
        self.say(f"[{self._done}/{self._count}] {job.name}: {found}{self._left()}")

    def show(self, running: Sequence[Job]) -> None:
        """The newest lines of the jobs that run."""
        if not self.live:
            return
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            f"{self._done}/{self._count} runs",
            ProgressBar(self._count, self._done, width=40),
            self._left(),
        )
        lines = [Text(_newest_line(job), overflow="ellipsis") for job in running]
        self.update(Group(*lines, bar))

    def _left(self) -> str:
        if self._ends_at is None or self._done == self._count:
            return ""
        return f" · {clock(max(0.0, self._ends_at - time.monotonic()))} left"


def _newest_line(job: Job) -> str:
    lines = job.log.read_text(errors="replace").splitlines()
    return f"{job.name}: {lines[-1]}"
