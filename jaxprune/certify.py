"""Is the small network the same function? Measured on real data, and said in a line."""

import itertools
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.constants import Verdict
from jaxprune.types import PyTree

EXACT_BELOW = 1e-4
"""The largest relative difference that rounding in float32 explains."""


@dataclass(frozen=True)
class Certificate:
    """What was found when two networks saw the same inputs.

    Attributes:
      max_abs_diff: max |Δ| over all results.
      relative: max |Δ| of a result, divided by the largest |entry| of the same dense
        result; the worst result counts.
      argmax_agreement: share of examples (rows of the first result) for which both have
        their largest entry at the same place.
      examples: how many were compared.
      verdict: "exact" where `relative` is at most 1e-4 and the reasoning does not
        refuse, else "approximate".
      reasoning: the verdict of `jaxprune.judge` on the plan in lower case, if asked.
      accuracy: share of right answers before and after, if labels were given.
    """

    max_abs_diff: float
    relative: float
    argmax_agreement: float
    examples: int
    verdict: Literal["exact", "approximate"]
    reasoning: str | None = None
    accuracy: tuple[float, float] | None = None

    def raise_if_different(self) -> Self:
        """This certificate, if it says exact.

        Raises:
          ValueError: it does not; the message is the certificate.

        Example:
          >>> Certificate(0.0, 0.0, 1.0, 8, "exact").raise_if_different().examples
          8
        """
        if self.verdict != "exact":
            raise ValueError(f"the small network is another function: {self}")
        return self

    def to_json(self) -> str:
        """One line of JSON; numbers that are not finite become null."""
        finite = {
            name: None if isinstance(x, float) and not math.isfinite(x) else x
            for name, x in asdict(self).items()
        }
        return json.dumps(finite, allow_nan=False)

    def __str__(self) -> str:
        line = (
            f"{self.verdict}: max |Δ| {self.max_abs_diff:.2e} "
            f"({self.relative:.2e} of the largest), argmax agrees on "
            f"{self.argmax_agreement:.2%} of {self.examples:,} examples"
        )
        if self.accuracy is not None:
            before, after = self.accuracy
            line += f", accuracy {before:.2%} → {after:.2%}"
        return line + (f"; by reasoning {self.reasoning}" if self.reasoning else "")


def certify(
    fn: Callable,
    variables: PyTree,
    small_fn: Callable,
    small: PyTree,
    batches: Iterable[Any],
    *,
    labels: Iterable[Any] | None = None,
    reasoning: Verdict | None = None,
) -> Certificate:
    """Compares the dense network and the small one on real inputs, in float32.

    Args:
      fn: the dense function, `fn(variables, *inputs)`; its first result, of shape
        (examples, classes), is what argmax and accuracy look at.
      variables: dense variables. To certify the removal of channels that were alive,
        set them to zero first: `plan.mask(variables)`.
      small_fn: the small function, as `jaxprune.shrink` gives it.
      small: the small variables, as `Plan.apply` gives them.
      batches: inputs, each an array or a tuple of several inputs.
      labels: right answers, an array of integers for each batch.
      reasoning: what `jaxprune.judge(coupling, variables).verdict(plan)` says. Where it
        refuses, equal numbers do not make the removal exact.

    Raises:
      ValueError: no batch, or results of different shapes.

    Example:
      >>> double = lambda w, x: x @ w
      >>> w = jnp.array([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
      >>> drop = lambda w, x: x[:, :2] @ w
      >>> print(certify(double, w, drop, w[:2], [jnp.ones((4, 3))]))
      exact: max |Δ| 0.00e+00 (0.00e+00 of the largest), argmax agrees on 100.00% of 4 \
examples
    """
    dense, compact = jax.jit(fn), jax.jit(small_fn)
    answers = itertools.repeat(None) if labels is None else iter(labels)
    seen = []
    for batch in batches:
        inputs = batch if isinstance(batch, tuple) else (batch,)
        with jax.default_matmul_precision("float32"):
            before = _results(dense(variables, *inputs))
            after = _results(compact(small, *inputs))
        seen.append(_compare(before, after, next(answers)))
    if not any(batch.counts[0] for batch in seen):
        raise ValueError("certify needs at least one batch with at least one example")
    differences, largest = np.max([batch.extremes for batch in seen], axis=0)
    examples, agreed, *right = np.sum([batch.counts for batch in seen], axis=0)
    relative = float(np.max(differences / np.where(largest == 0, 1, largest)))
    same = relative <= EXACT_BELOW and reasoning is not Verdict.REFUSED
    return Certificate(
        max_abs_diff=float(np.max(differences)),
        relative=relative,
        argmax_agreement=float(agreed / examples),
        examples=int(examples),
        verdict="exact" if same else "approximate",
        reasoning=None if reasoning is None else Verdict(reasoning).name.lower(),
        accuracy=tuple(float(n / examples) for n in right) or None,
    )


class _Compared(NamedTuple):
    """What a batch shows.

    Attributes:
      extremes: max |Δ| of each result, and below it the largest |entry| before.
      counts: examples, those with the same argmax and, if the answers are known, those
        that are right before and after.
    """

    extremes: np.ndarray
    counts: list[int]


def _compare(
    before: list[np.ndarray], after: list[np.ndarray], answer: Any
) -> _Compared:
    _check([x.shape for x in before], [x.shape for x in after])
    pairs = list(zip(before, after, strict=True))
    differences = [np.abs(a - b).max(initial=0) for a, b in pairs]
    largest = [np.abs(a).max(initial=0) for a in before]
    chosen = [np.argmax(_rows(results[0]), axis=-1) for results in (before, after)]
    counts = [len(chosen[0]), np.sum(chosen[0] == chosen[1])]
    if answer is not None:
        counts += [np.sum(found == np.ravel(answer)) for found in chosen]
    return _Compared(np.array([differences, largest]), counts)


def _results(tree: PyTree) -> list[np.ndarray]:
    """The floating results, in float32."""
    arrays = map(jnp.asarray, jax.tree.leaves(tree))
    found = [x for x in arrays if jnp.issubdtype(x.dtype, jnp.inexact)]
    if not found:
        raise ValueError("certify compares floating results, and the function has none")
    return [np.asarray(x.astype(jnp.float32)) for x in found]


def _rows(array: np.ndarray) -> np.ndarray:
    """One row for each example; a plain number counts as one example."""
    return (
        array.reshape(-1, array.shape[-1]) if array.ndim > 1 else array.reshape(-1, 1)
    )


def _check(before: list, after: list) -> None:
    if before != after:
        raise ValueError(
            f"the results have shapes {before} and {after}: they must be the same"
        )
