"""Runs jobs as processes of their own, a few at a time; one that fails stays alone."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments import interrupts
from experiments.comparison.board import Board
from experiments.comparison.jobs import Job
from experiments.runs import one_line

_POLL_SECONDS = 0.1


class Child(NamedTuple):
    """A job's process, and the cores it may use; None: all."""

    job: Job
    process: subprocess.Popen
    cores: set[int] | None


def run(
    jobs: Sequence[Job],
    command: Callable[[Job], list[str]],
    board: Board,
    *,
    at_once: int = 1,
) -> dict[str, str]:
    """Runs what is unfinished of `jobs`, each after the one it starts from.

    What a job prints goes to its log. The cores are dealt out among the processes.

    Args:
      jobs: in the order in which they start, where nothing keeps them waiting.
      command: of a job; it has to exit with 0 and leave a result.
      board: shows how it goes.
      at_once: how many processes at a time.

    Returns:
      What went wrong, in a line, by the names of the jobs that failed.

    Raises:
      KeyboardInterrupt: after Ctrl-C, once the processes have saved and ended.
    """
    waiting = [job for job in jobs if not job.finished]
    running: list[Child] = []
    free = _shares(at_once)
    failed: dict[str, str] = {}

    def end(job: Job, error: str | None) -> None:
        board.ended(job, error)
        if error is None:
            return
        failed[job.name] = error
        for other in [other for other in waiting if other.after is job]:
            waiting.remove(other)
            end(other, f"not run, since {job.name} failed")

    board.begin(jobs, waiting)
    with interrupts.held() as stop, contextlib.ExitStack() as stack:
        stack.callback(_stop, running)
        while waiting or running:
            while free and (job := _next(waiting)):
                waiting.remove(job)
                running.append(_start(job, command(job), free.pop(0)))
            time.sleep(_POLL_SECONDS)
            if stop.asked:
                board.say(f"stopping: {len(running)} runs are being saved")
                raise KeyboardInterrupt
            for child in [c for c in running if c.process.poll() is not None]:
                running.remove(child)
                free.append(child.cores)
                end(child.job, _error(child))
            board.show([child.job for child in running])
    return failed


def _next(waiting: Sequence[Job]) -> Job | None:
    ready = (job for job in waiting if job.after is None or job.after.finished)
    return next(ready, None)


def _start(job: Job, command: list[str], cores: set[int] | None) -> Child:
    """Starts a job in a session of its own: Ctrl-C reaches it only through `_stop`."""
    with one_line(job.log):
        job.log.parent.mkdir(parents=True, exist_ok=True)
        log = job.log.open("a")
    with log, _on(cores):
        log.write(f"$ {shlex.join(command)}\n")
        log.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Child(job, process, cores)


def _stop(running: Sequence[Child]) -> None:
    for child in running:
        child.process.send_signal(signal.SIGINT)
    for child in running:
        child.process.wait()


def _error(child: Child) -> str | None:
    """What went wrong, in a line; None if nothing did."""
    status = child.process.returncode
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    if status == 0:
        return None if child.job.finished else "ended without a report"
    text = child.job.log.read_text(errors="replace")
    *_, last = filter(None, map(str.strip, text.splitlines()))
    return f"exit status {status}" if last[0] == "$" else last.removeprefix("error: ")


def _shares(count: int) -> list[set[int] | None]:
    """The cores of each of `count` processes that run at a time."""
    if count == 1 or not hasattr(os, "sched_setaffinity"):
        return [None] * count
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[i::count]) or set(cores) for i in range(count)]


@contextlib.contextmanager
def _on(cores: set[int] | None):
    """Processes started in the block stay on `cores`."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
