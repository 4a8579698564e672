"""What a benchmark gives: figures with their spread, and their target if they have one.

Candidates are timed in turns within one process, so that what else the machine does
falls on all of them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Figure:
    """One number of a benchmark.

    Attributes:
      what: what was measured.
      value: the median.
      unit: such as "ms"; "×" for ratios.
      low: lower quartile, or the value itself.
      high: upper quartile, or the value itself.
      least: the target, if it is a lower limit.
      most: the target, if it is an upper limit.
    """

    what: str
    value: float
    unit: str
    low: float
    high: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.least is not None:
            return self.value >= self.least
        return None if self.most is None else self.value <= self.most


def single(what: str, value: float, unit: str, **target: float) -> Figure:
    """A figure that does not scatter, such as a number of bytes."""
    return Figure(what, value, unit, value, value, **target)


def of(
    what: str, samples: list[float], unit: str, scale: float = 1, **target: float
) -> Figure:
    """Median and quartiles of samples, each multiplied by `scale`."""
    low, median, high = np.quantile(samples, [0.25, 0.5, 0.75]) * scale
    return Figure(what, float(median), unit, float(low), float(high), **target)


def ratio(
    what: str, above: list[float], below: list[float], scale: float = 1, **target: float
) -> Figure:
    """The median of the ratios turn by turn, which cancels what slows both."""
    return of(
        what, [a / b for a, b in zip(above, below, strict=True)], "×", scale, **target
    )


def alternate(
    candidates: Mapping[str, Callable[[], Any]], turns: int
) -> dict[str, list[float]]:
    """Seconds of each candidate in each turn, after one call to compile and warm up."""
    for call in candidates.values():
        jax.block_until_ready(call())
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(turns):
        for name, call in candidates.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - start)
    return seconds
