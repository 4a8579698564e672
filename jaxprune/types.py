"""The vocabulary: what the other files mean by params, masks, predicates and so on."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax

Array: TypeAlias = jax.Array
PyTree: TypeAlias = Any

Params: TypeAlias = PyTree
"""A pytree of arrays: the variables of a model, or a part of them."""

Masks: TypeAlias = PyTree
"""A pytree of booleans shaped like `Params`; True means kept."""

Scores: TypeAlias = PyTree
"""A pytree of non-negative floats shaped like `Params`; small means unimportant."""

Predicate: TypeAlias = Callable[[str, Any], bool]
"""Chooses leaves: `predicate(path, leaf)`, with a path such as `"Conv_0/kernel"`."""
