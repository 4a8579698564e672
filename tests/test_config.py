"""What is asked of a run is refused, in a line, where it makes no sense."""

from pathlib import Path

import pytest

from experiments import loading, memory
from experiments.config import Config
from experiments.imagenet import ImagenetConfig
from experiments.recipe import Recipe

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"prune_epochs": -1}, "prune_epochs must be 1 or more, got -1"),
        ({"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ({"pruning_steps": 0}, "pruning_steps must be 1 or more, got 0"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"ratio": 0.5}, "ratio must be 1 or more, got 0.5"),
        ({"params_ratio": NAN}, "params_ratio must be 1 or more, got nan"),
        ({"macs_ratio": INF}, "macs_ratio must be 1 or more, got inf"),
        ({"width": -0.5}, "width must be 0 or more, got -0.5"),
        ({"weight_decay": NAN}, "weight_decay must be 0 or more, got nan"),
        ({"l1_scale": -1.0}, "l1_scale must be 0 or more, got -1.0"),
        ({"l1_shift": INF}, "l1_shift must be 0 or more, got inf"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"prune_learning_rate": NAN}, "prune_learning_rate must be above 0, got nan"),
        ({"curvature": -1.0}, "curvature must be above 0, got -1.0"),
        ({"small_share": 1.5}, r"small_share must be in \[0, 1\], got 1.5"),
        ({"average_last": NAN}, r"average_last must be in \[0, 1\], got nan"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"hysteresis": 2.0}, r"hysteresis must be in \[0, 1\), got 2.0"),
        ({"floor": 1.0}, r"floor must be in \[0, 1\), got 1.0"),
        ({"distribution": "rows"}, "distribution must be global, leaf, erk or n:m"),
        ({"schedule": "cosine"}, "schedule must be one of logarithmic, cubic"),
        ({"solver": "adam"}, "solver must be one of fista, ista, subgradient"),
        ({"regrow": "yes"}, "regrow must be one of none, gradient, random"),
        ({"methods": ("stepwize",)}, "methods must be some of dense, stepwise"),
        ({"methods": ()}, "methods must be some of"),
        ({"sparsify_epochs": 80}, "sparsify_epochs must lie between"),
        ({"start": "scratch", "start_from": Path("runs/x")}, "leave one of them out"),
    ],
)
def test_bad_fields_of_a_run(fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        Config(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (ImagenetConfig, {"image_size": 0}, "image_size must be 1 or more, got 0"),
        (ImagenetConfig, {"workers": -1}, "workers must be 0 or more, got -1"),
        (ImagenetConfig, {"epochs": 0}, "epochs must be 1 or more, got 0"),
        (loading.Config, {"data": "cifar10"}, "cifar10 is not streamed: choose from"),
        (loading.Config, {"batches": 0}, "batches must be 1 or more, got 0"),
        (loading.Config, {"workers": (0, -2)}, r"workers must be 0 or more, got \(0"),
        (loading.Config, {"workers": ()}, r"workers must be 0 or more, got \(\)"),
        (memory.Config, {"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        (memory.Config, {"width": NAN}, "width must be 0 or more, got nan"),
        (Recipe, {"epochs": 0}, "epochs must be 1 or more, got 0"),
        (Recipe, {"epochs": 1, "crop": -1}, "crop must be 0 or more, got -1"),
        (Recipe, {"epochs": 1, "small_size": 0}, "small_size must be 1 or more"),
        (Recipe, {"epochs": 1, "average_last": 1.5}, r"average_last must be in \[0"),
    ],
)
def test_bad_fields_of_others(kind, fields, message):
    with pytest.raises(ValueError, match=message):
        kind(**fields)
