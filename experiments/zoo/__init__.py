"""Small models of many kinds and frameworks, for `experiments.coverage`.

`entries()` lists them; `entry.build()` makes one. Haiku, Equinox and Keras are
optional: their models are left out where the framework is not installed.
"""

from importlib import import_module
from importlib.util import find_spec

from experiments.zoo.entry import Entry as Entry
from experiments.zoo.entry import Model as Model

_FAMILIES = {
    "papers": "flax",
    "resnet": "flax",
    "densenet": "flax",
    "mobile": "flax",
    "branches": "flax",
    "transformer": "flax",
    "sequence": "flax",
    "nnx_models": "flax",
    "haiku_models": "haiku",
    "equinox_models": "equinox",
    "keras_models": "keras",
}


def entries() -> dict[str, Entry]:
    """Every model whose framework is installed, by name."""
    found = [
        entry
        for family, framework in _FAMILIES.items()
        if find_spec(framework)
        for entry in import_module(f"experiments.zoo.{family}").ENTRIES
    ]
    return {entry.name: entry for entry in found}
