"""What a run delivers: artefacts, measured costs, the report."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments import report
from experiments.branches import Delivered
from experiments.experiment import Experiment
from experiments.runs import one_line, versions, write_text

_LATENCY_BATCHES = (1, 128)


def write(experiment: Experiment, delivered: dict[str, Delivered]) -> dict[str, Any]:
    """Writes the networks, `report.json` and `report.html`; prints the table.

    Returns:
      What `report.json` holds.
    """
    folder = experiment.run.folder
    networks = {
        name: measure(experiment, name, network) for name, network in delivered.items()
    }
    told = {name: network.details for name, network in delivered.items()}
    certificate = told.get("channels", {}).get("certificate")
    summary = {
        "title": f"{experiment.architecture.name} on {experiment.dataset.name}",
        "networks": networks,
        "certificate": certificate and json.loads(certificate.to_json()),
        "reported": [reported._asdict() for reported in experiment.reported],
        "data": experiment.dataset.source,
        "versions": versions(),
        "device": jp.cost.device_name(),
        "pruning": told.get("stepwise", {}).get("pruning"),
    }
    write_text(folder / "report.json", json.dumps(summary, indent=2))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    write_text(folder / "report.html", report.html(summary, metrics))
    experiment.progress.say(report.table(summary))
    experiment.progress.say(f"report: {folder / 'report.html'}")
    return summary


def measure(experiment: Experiment, name: str, network: Delivered) -> dict[str, Any]:
    """Writes a network's artefact and measures what it costs.

    Raises:
      RuntimeError: what was written does not come back bit for bit.
    """
    path = experiment.run.folder / "artifacts" / f"{name}.safetensors"
    variables = jax.tree.map(np.asarray, network.variables)
    metadata = {
        "architecture": experiment.architecture.name,
        "accuracy": network.accuracy,
        "class_names": list(experiment.dataset.class_names),
        "data": experiment.dataset.source,
        "mean": experiment.dataset.mean.tolist(),
        "std": experiment.dataset.std.tolist(),
    }
    with one_line(path):
        path.parent.mkdir(exist_ok=True)
        size = jp.artifact.save(path, variables, plan=network.plan, metadata=metadata)
    back = jp.artifact.load(path).variables
    if not jax.tree.all(jax.tree.map(np.array_equal, back, variables)):
        raise RuntimeError(f"{path} does not hold the network that was written to it")
    shape = experiment.example.shape[1:]
    return {
        "accuracy": network.accuracy,
        "params": jp.parameters(variables["params"]),
        "nonzero": jp.nonzeros(variables["params"]),
        "macs": jp.macs(network.predict, variables, experiment.example),
        "bytes": size,
        "latency_ms": {
            str(n): jp.latency(
                network.predict, variables, jnp.zeros((n, *shape))
            ).median_ms
            for n in _LATENCY_BATCHES
        },
    }
