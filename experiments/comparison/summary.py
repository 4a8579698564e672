"""What the runs of a comparison have found: means and spreads over the seeds."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.comparison.jobs import Job
from experiments.comparison.methods import METHODS

Summary = dict[str, Any]
"""As in `comparison.json`: title, rows, runs, data, device, versions."""

MEASURES = ("accuracy", "delta", "params_ratio", "macs_ratio")


def summarise(title: str, jobs: Sequence[Job], failed: Mapping[str, str]) -> Summary:
    """The table, a row for each method and ratio.

    Args:
      title: of the comparison.
      jobs: all of them.
      failed: what went wrong, by the names of the jobs that failed.

    Returns:
      `{"title", "rows", "runs", "data", "device", "versions"}`. A row has the method's
      name and summary, the ratio asked for, how many runs were finished of how many,
      the errors of the others, and for each of `MEASURES` its `spread` over the runs:
      accuracy in [0, 1], what it is above that of the dense network of the same seed,
      dense parameters per parameter that is not zero, and the same of multiply-adds.
    """
    dense = {job.config.seed: job for job in jobs if job.method == "dense"}
    runs = [_run(job, dense[job.config.seed], failed.get(job.name)) for job in jobs]
    order = list(METHODS)
    runs.sort(key=lambda run: (order.index(run["method"]), run["ratio"]))
    groups = itertools.groupby(runs, key=lambda run: (run["method"], run["ratio"]))
    some = next((job.report for job in jobs if job.finished), {})
    about = {name: some.get(name) for name in ("data", "device", "versions")}
    rows = [_row(*key, list(group)) for key, group in groups]
    return {"title": title, "rows": rows, "runs": runs, **about}


def spread(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation of what is known; None when nothing is.

    Example:
      >>> spread([0.5, 1.5, None]), spread([2.0]), spread([None])
      ({'mean': 1.0, 'spread': 0.7071067811865476}, {'mean': 2.0, 'spread': None}, None)
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    several = len(known) > 1
    return {
        "mean": statistics.fmean(known),
        "spread": statistics.stdev(known) if several else None,
    }


def _run(job: Job, dense: Job, error: str | None) -> dict[str, Any]:
    run = {
        "name": job.name,
        "method": job.method,
        "ratio": job.ratio,
        "seed": job.config.seed,
        "error": error,
        **dict.fromkeys(MEASURES),
    }
    if error is not None:
        return run
    found = job.measured
    run["accuracy"] = found["accuracy"]
    if dense.finished:
        base = dense.measured
        run["delta"] = found["accuracy"] - base["accuracy"]
        run["params_ratio"] = base["params"] / found["nonzero"]
        run["macs_ratio"] = base["macs"] / found["macs"]
    return run


def _row(method: str, ratio: float, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    errors = {run["name"]: run["error"] for run in runs if run["error"] is not None}
    return {
        "method": method,
        "summary": METHODS[method].summary,
        "ratio": ratio,
        "finished": len(runs) - len(errors),
        "runs": len(runs),
        "errors": errors,
        **{name: spread([run[name] for run in runs]) for name in MEASURES},
    }
