"""Cut slots out of an array, or zero them, wherever the array lives."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxprune.types import Array

Kept = Mapping[int, np.ndarray]


def take(leaf: Any, kept: Kept, ndim: int) -> Any:
    """`leaf` with only the indices `kept` of its axes, counted in its last `ndim` ones.

    Numpy arrays stay numpy arrays, abstract ones abstract. An array on devices goes
    through the host when all of it is in reach (no compilation), and comes back with
    its sharding, less the axes that no longer divide over their part of the mesh.
    """
    if not kept:
        return leaf
    axes = {axis + np.ndim(leaf) - ndim: index for axis, index in kept.items()}
    if isinstance(leaf, jax.ShapeDtypeStruct):
        shape = tuple(len(axes.get(i, range(n))) for i, n in enumerate(leaf.shape))
        return leaf.update(shape=shape, sharding=_sharding(leaf.sharding, shape))
    if not isinstance(leaf, jax.Array):
        return _index(np.asarray(leaf), axes, np)
    if isinstance(leaf, jax.core.Tracer):
        return _index(leaf, axes, jnp)
    shape = tuple(len(axes.get(i, range(n))) for i, n in enumerate(leaf.shape))
    sharding = _sharding(leaf.sharding, shape)
    if leaf.is_fully_addressable:
        return jax.device_put(_index(np.asarray(leaf), axes, np), sharding)
    return jax.jit(partial(_index, axes=axes, xp=jnp), out_shardings=sharding)(leaf)


def zero(leaf: Any, kept: Kept, ndim: int) -> Any:
    """`leaf` with zeros outside `kept`; same shape, dtype and sharding."""
    if not kept or isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    stays = np.ones((), bool)
    for axis, index in kept.items():
        along = np.isin(np.arange(leaf.shape[axis - ndim]), index)
        stays = stays & along.reshape((-1,) + (1,) * (ndim - axis - 1))
    if not isinstance(leaf, jax.Array):
        return np.where(stays, leaf, np.zeros((), leaf.dtype))
    return jnp.where(stays, leaf, jnp.zeros((), leaf.dtype))


def _index(leaf: Any, axes: Kept, xp: Any) -> Array:
    for axis, index in axes.items():
        leaf = xp.take(leaf, index, axis=axis)
    return leaf


def _sharding(sharding: Any, shape: tuple[int, ...]) -> Any:
    """`sharding`, replicated along the axes that it cannot divide any more."""
    if not isinstance(sharding, NamedSharding):
        return sharding
    sizes = sharding.mesh.shape

    def still(axis: int, names: Any) -> Any:
        group = (names,) if isinstance(names, str) else names or ()
        return (
            names
            if shape[axis] % int(np.prod([sizes[n] for n in group])) == 0
            else None
        )

    spec = PartitionSpec(*(still(i, names) for i, names in enumerate(sharding.spec)))
    return NamedSharding(sharding.mesh, spec)
