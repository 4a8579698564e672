"""The dense network of an earlier run, to start another run from."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.config import Config
from experiments.errors import RunError
from experiments.experiment import Experiment
from experiments.models.heads import drop_heads
from experiments.networks import Variables
from experiments.runs import Run


def earlier(experiment: Experiment) -> Experiment:
    """The run in the folder `start_from`, whose dense network is trained.

    Raises:
      RunError: it is not, or there is no run.
      ValueError: its data differ, or its network in more than auxiliary classifiers.
    """
    folder = experiment.config.start_from.absolute()
    config = _config(folder)
    if config.data != experiment.config.data:
        raise ValueError(
            f"the run in {folder} is on {config.data}, not on {experiment.config.data}"
        )
    if not (folder / "phases" / "dense" / "result.json").exists():
        raise RunError(f"the run in {folder} has no dense network that is trained")
    found = dataclasses.replace(experiment, config=config, run=Run(folder))
    if _shapes(found) != _shapes(experiment):
        raise ValueError(
            f"the dense network in {folder} has other shapes than "
            f"{experiment.architecture.name} of width {experiment.config.width}"
        )
    return found


def adopted(trained: Variables, new: Variables) -> Variables:
    """`trained` with the auxiliary classifiers of `new`; those it has too are its own.

    Example:
      >>> trained = {"params": {"Dense_0": 1, "aux_2": 2, "aux_5": 3}}
      >>> adopted(trained, {"params": {"Dense_0": 0, "aux_5": 0, "aux_7": 0}})
      {'params': {'Dense_0': 1, 'aux_5': 3, 'aux_7': 0}}
    """
    return {
        kind: {name: trained[kind].get(name, leaves) for name, leaves in tree.items()}
        for kind, tree in new.items()
    }


def _config(folder: Path) -> Config:
    """The config of the run in a folder, as far as its dense network goes."""
    names = {field.name for field in dataclasses.fields(Config)}
    try:
        written = json.loads((folder / "config.json").read_text())["config"]
        fields = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in written.items()
            if name in names
        }
        return Config(**{**fields, "methods": ("dense",)})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{folder} is not the folder of a run: {error}") from error


def _shapes(experiment: Experiment) -> Variables:
    return jax.tree.map(jnp.shape, drop_heads(experiment.shapes))
