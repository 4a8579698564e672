"""For tests: the runs of a small comparison, finished without being run."""

import dataclasses
import json
import shlex

from experiments.comparison import convnet
from experiments.comparison.jobs import Shared, make_jobs

BASE = dataclasses.replace(Shared.of(convnet.SMOKE), width=0.25)
COSTS = {"accuracy": 0.9, "params": 1000, "nonzero": 1000, "macs": 5000}


def make(folder, methods=("stepwise", "small"), ratios=(4.0,), seeds=(0,)):
    return make_jobs(BASE, folder, methods, ratios, seeds)


def report(job, **costs):
    """As much of a run's report as a comparison reads."""
    network = {**COSTS, **costs}
    about = {"data": "made up", "device": "some CPU", "versions": {"jax": "1.2"}}
    return json.dumps({"networks": {job.config.methods[0]: network}, **about})


def finish(job, **costs):
    job.config.workdir.mkdir(parents=True)
    (job.config.workdir / "report.json").write_text(report(job, **costs))


def succeed(job, **costs):
    """A command that does at once what the run of a job does in the end."""
    folder = shlex.quote(str(job.config.workdir))
    told = shlex.quote(report(job, **costs))
    return ["sh", "-c", f"mkdir -p {folder}; echo {told} > {folder}/report.json"]
