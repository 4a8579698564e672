"""Which models can lose channels: half of the groups of each model in the zoo go.

    python -m experiments.coverage [NAME …] [--fast]

Each model has random weights and statistics. A random half of its groups is zeroed in
the dense variables and removed, and both networks are compared. Zeros do not stay zeros
everywhere: a layer norm in two passes moves them off, as does a shift that all channels
share. Where that makes a difference, the groups that `jaxprune.dead_channels` does not
call dead are kept, and the rest is compared once more.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path

import jax
import numpy as np
import tyro
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from experiments import zoo


@dataclass(frozen=True)
class Config:
    """Traces, prunes and compares the models of the zoo.

    Attributes:
      names: which models; all by default.
      fast: leave out the models marked slow.
      ratio: share of the groups to remove, in [0, 1).
      seed: of the choice of groups.
      json: file to write the results to.
    """

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    fast: bool = False
    ratio: float = 0.5
    seed: int = 0
    json: Path = Path("runs/coverage.json")


@dataclass(frozen=True)
class Result:
    """What became of one model.

    Attributes:
      model: its name.
      framework: what it is written in.
      slots: (leaf, axis, index) triples of its variables.
      groups: sets of slots that can be removed, each on its own.
      prunable: share of the slots that belong to a group.
      removed: share of the entries of all variables that went.
      held: chosen groups that had to stay because their zeros do not stay zeros.
      relative: max |Δ| between dense and small, divided by the largest output; of the
        worst output if there are several.
      trace_seconds: time to find the groups.
      verdict: "exact"; "frozen" if less can be pruned than the zoo says; "different" if
        the small network is another function; "failed" if there was an error.
      reasons: the error, or why slots are frozen.
    """

    model: str
    framework: str
    slots: int = 0
    groups: int = 0
    prunable: float = 0.0
    removed: float = 0.0
    held: int = 0
    relative: float | None = None
    trace_seconds: float = 0.0
    verdict: str = "failed"
    reasons: tuple[str, ...] = field(default=(), repr=False)


def run(config: Config) -> list[Result]:
    """Covers the models that `config` names, and writes the results.

    Raises:
      ValueError: a name is not in the zoo.
    """
    results = []
    chosen = _chosen(config)
    with quick_compilation():
        for number, entry in enumerate(chosen, 1):
            _progress(f"{number} of {len(chosen)}: {entry.name}")
            try:
                result = cover(entry, ratio=config.ratio, seed=config.seed)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                result = Result(entry.name, entry.framework, reasons=(reason,))
            results.append(result)
    _progress("")
    config.json.parent.mkdir(parents=True, exist_ok=True)
    config.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    return results


def cover(entry: zoo.Entry, *, ratio: float = 0.5, seed: int = 0) -> Result:
    """Removes a share of the groups of one model and compares."""
    model = entry.build()
    start = time.perf_counter()
    also = [(model.train, (model.x,))] if model.train else []
    coupling = jp.trace_coupling(model.fn, model.variables, model.x, also=also)
    seconds = time.perf_counter() - start
    chosen = random_plan(coupling, model, ratio=ratio, seed=seed)
    plan, certificate = chosen, compare(model, chosen)
    if certificate.verdict != "exact":
        plan = dead_part(coupling, model, chosen)
        certificate = compare(model, plan, reasoning=jp.Verdict.EXACT)
    dense, small = model.variables, plan.apply(model.variables)
    return Result(
        model=entry.name,
        framework=entry.framework,
        slots=coupling.slots,
        groups=coupling.size,
        prunable=coupling.prunable / coupling.slots,
        removed=1 - jp.parameters(small) / jp.parameters(dense),
        held=int(np.sum(plan.to_keep(coupling) & ~chosen.to_keep(coupling))),
        relative=certificate.relative,
        trace_seconds=seconds,
        verdict=_verdict(entry, coupling, certificate),
        reasons=tuple(map(str, coupling.frozen)),
    )


def _verdict(
    entry: zoo.Entry, coupling: jp.Coupling, certificate: jp.Certificate
) -> str:
    if certificate.verdict != "exact":
        return "different"
    return "exact" if coupling.prunable >= entry.floor * coupling.slots else "frozen"


def random_plan(
    coupling: jp.Coupling, model: zoo.Model, *, ratio: float, seed: int
) -> jp.Plan:
    """Removes a random share of the groups."""
    scores = np.random.default_rng(seed).random(coupling.size + 1)
    return jp.make_plan(coupling, model.variables, score=scores, ratio=ratio)


def compare(
    model: zoo.Model, plan: jp.Plan, *, reasoning: jp.Verdict | None = None
) -> jp.Certificate:
    """The dense model, the removed slots zero, against the small one."""
    dense, small = plan.mask(model.variables), plan.apply(model.variables)
    small_fn = jp.shrink(model.fn, plan)
    return jp.certify(model.fn, dense, small_fn, small, [model.x], reasoning=reasoning)


def dead_part(coupling: jp.Coupling, model: zoo.Model, plan: jp.Plan) -> jp.Plan:
    """Of the groups that `plan` removes, those that are dead once they are zero."""
    while True:
        dead = jp.dead_channels(
            coupling, plan.mask(model.variables), worst=jp.Verdict.EXACT
        )
        keep = plan.to_keep(coupling)
        if (keep | dead).all():
            return plan
        plan = jp.Plan.from_keep(coupling, keep | ~dead)


def table(results: Sequence[Result]) -> Table:
    """The results as a terminal table."""
    rows = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    rows.add_column("model")
    rows.add_column("framework")
    numbers = "slots", "groups", "prunable", "held", "removed", "relative Δ", "trace"
    for heading in numbers:
        rows.add_column(heading, justify="right")
    rows.add_column("verdict")
    for r in results:
        rows.add_row(
            r.model,
            r.framework,
            f"{r.slots:,}",
            f"{r.groups:,}",
            f"{r.prunable:.1%}",
            f"{r.held:,}",
            f"{r.removed:.1%}",
            "—" if r.relative is None else f"{r.relative:.1e}",
            f"{r.trace_seconds:.2f} s",
            r.verdict,
        )
    return rows


def _chosen(config: Config) -> list[zoo.Entry]:
    entries = zoo.entries()
    for name in config.names:
        if name not in entries:
            close = get_close_matches(name, entries) or list(entries)[:5]
            raise ValueError(f"no model {name!r} in the zoo; is it {', '.join(close)}?")
    wanted = config.names or entries
    return [entries[n] for n in wanted if not (config.fast and entries[n].slow)]


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def quick_compilation() -> Iterator[None]:
    """Compiling takes longer than running here, so it need not optimise."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


def main(args: Sequence[str] | None = None) -> int:
    """Prints the table; 0 if all are exact, 1 if not, 2 for an unknown name."""
    config = tyro.cli(Config, args=args, description=__doc__)
    try:
        results = run(config)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table(results))
    bad = [r for r in results if r.verdict != "exact"]
    for r in bad:
        console.print(f"{r.model} {r.verdict}:", *r.reasons, sep="\n  ", markup=False)
    good = len(results) - len(bad)
    console.print(f"{good} of {len(results)} models exact; written to {config.json}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
