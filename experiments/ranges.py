"""Numbers of a config that are out of range are refused, in a line that names them."""

import math
from collections.abc import Callable
from typing import Any


def at_least(least: float, config: Any, *fields: str) -> None:
    """Each of the fields is `least` or more, and finite.

    Raises:
      ValueError: one is not, or is NaN.

    Example:
      >>> from types import SimpleNamespace
      >>> at_least(1, SimpleNamespace(epochs=0), "epochs")
      Traceback (most recent call last):
      ValueError: epochs must be 1 or more, got 0
    """
    _check(config, fields, lambda x: least <= x < math.inf, f"{least} or more")


def positive(config: Any, *fields: str) -> None:
    """Each of the fields is above 0, and finite."""
    _check(config, fields, lambda x: 0 < x < math.inf, "above 0")


def share(config: Any, *fields: str) -> None:
    """Each of the fields is in [0, 1]."""
    _check(config, fields, lambda x: 0 <= x <= 1, "in [0, 1]")


def part(config: Any, *fields: str) -> None:
    """Each of the fields is in [0, 1): some of it, but not all."""
    _check(config, fields, lambda x: 0 <= x < 1, "in [0, 1)")


def _check(
    config: Any, fields: tuple[str, ...], holds: Callable[[Any], bool], words: str
) -> None:
    for field in fields:
        if not holds(value := getattr(config, field)):
            raise ValueError(f"{field} must be {words}, got {value}")
