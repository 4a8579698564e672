"""What is known of an array: a value, and a mask of entries that depend on inputs."""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import jax.numpy as jnp

from jaxprune.types import Array

_SAME = 1e-6
"""Values that differ by less, relatively, are one: branches round differently."""


@dataclass(frozen=True, eq=False)
class Fact:
    """What is known of an array.

    Attributes:
      value: its entries, meaningless where unknown; None where all are.
      unknown: which entries are unknown: bools, or one bool for all.
    """

    value: Array | None
    unknown: Array | bool

    @property
    def everything(self) -> bool:
        """Whether it is plain from the program that every entry is known."""
        return self.unknown is False

    @property
    def nothing(self) -> bool:
        """Whether it is plain from the program that no entry is."""
        return self.value is None

    def mask(self) -> Array:
        """The unknown entries, as an array."""
        return jnp.broadcast_to(self.unknown, jnp.shape(self.value))

    def alive(self) -> Array | bool:
        """The entries that are not known to be zero."""
        return True if self.nothing else either(self.unknown, self.value != 0)

    def clean(self) -> Array:
        """The value, zero where it is unknown."""
        return self.value if self.everything else zero_where(self.mask(), self.value)


UNKNOWN = Fact(None, True)


def known(value: Any) -> Fact:
    """The fact that an array is `value`."""
    return Fact(jnp.asarray(value), False)


def either(*flags: Array | bool) -> Array | bool:
    """Which of the flags are set, without operations for the plain ones."""
    if any(flag is True for flag in flags):
        return True
    return reduce(jnp.logical_or, [f for f in flags if f is not False] or [False])


def both(a: Array | bool, b: Array | bool) -> Array | bool:
    """Which of two flags are set, without operations for the plain ones."""
    if a is False or b is False:
        return False
    return b if a is True else a if b is True else a & b


def zero_where(flags: Array, value: Array) -> Array:
    """`value`, but zero where flagged."""
    return jnp.where(flags, jnp.zeros((), value.dtype), value)


def close(a: Array, b: Array) -> Array:
    """Where two arrays differ by rounding at most."""
    if not jnp.issubdtype(a.dtype, jnp.inexact):
        return a == b
    return (a == b) | (jnp.abs(a - b) <= _SAME * jnp.maximum(jnp.abs(a), jnp.abs(b)))
