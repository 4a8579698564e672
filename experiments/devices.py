"""Data parallelism: batches over all devices, everything else on each of them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec


class Placement(NamedTuple):
    """Where arrays live; both None on a single device, where nothing is to be said."""

    batch: NamedSharding | None
    everywhere: NamedSharding | None

    def put(self, tree: Any) -> Any:
        """Own copies of the leaves, on every device: they may be donated."""
        if self.everywhere is not None:
            tree = jax.device_put(tree, self.everywhere)
        return jax.tree.map(jnp.copy, tree)


def placement(devices: list[jax.Device] | None = None) -> Placement:
    """A mesh over `devices` (all there are by default) with the batch split over it."""
    devices = jax.devices() if devices is None else devices
    if len(devices) == 1:
        return Placement(None, None)
    mesh = jax.make_mesh(
        (len(devices),), ("batch",), axis_types=(AxisType.Auto,), devices=devices
    )
    return Placement(
        NamedSharding(mesh, PartitionSpec("batch")),
        NamedSharding(mesh, PartitionSpec()),
    )
