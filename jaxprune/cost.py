"""What a network costs: parameters, multiply-adds, milliseconds."""

import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxprs_in_params

from jaxprune.types import Params


def parameters(tree: Params) -> int:
    """How many numbers the leaves of `tree` hold.

    Args:
      tree: pytree of arrays, or of anything with a shape. Give the trained parameters
        alone: batch statistics are not parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> parameters({"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)})
      16
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nonzeros(tree: Params) -> int:
    """How many numbers in the leaves of `tree` are not ±0 (NaN is not zero).

    Example:
      >>> import jax.numpy as jnp
      >>> nonzeros({"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)})
      12
    """
    return sum(int(jnp.count_nonzero(leaf)) for leaf in jax.tree.leaves(tree))


def macs(fn: Callable[..., Any], *args: Any) -> int:
    """Multiply-adds of the contractions in `fn(*args)`: matrix products, convolutions.

    Counted on the traced function, as published counts are:

    - a dot product of length n is n multiply-adds; a convolution costs one for each
      output, tap and input channel of its group, padding included;
    - a transposed convolution (dilated input) costs one for each *input* and tap: the
      zeros between are not multiplied;
    - `scan` counts its body once for each iteration, `shard_map` once for each device;
    - of the branches of a conditional the most expensive counts. Branches made by
      `jax.lax.platform_dependent` are one computation written in several ways, so a
      convolution spelled out as shifted sums on one platform is still counted;
    - elementwise work (batch norm, activations, pooling) is not counted.

    Args:
      fn: any JAX function.
      *args: its arguments: arrays, or `jax.ShapeDtypeStruct`s; nothing is computed.
        The result is for the whole batch. Python values that are not arrays are
        constants.

    Raises:
      ValueError: a `while_loop` contracts something: how often is not known.

    Example:
      >>> import jax.numpy as jnp
      >>> macs(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 5)))
      30
    """
    traced, arrays = _close_over_constants(fn, args)
    return _macs(jax.make_jaxpr(traced)(*arrays).jaxpr)


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one call, in milliseconds.

    Attributes:
      median_ms: median over the repeats.
      low_ms: lower quartile.
      high_ms: upper quartile.
      repeats: number of calls measured.
      compile_s: seconds for tracing and compilation.
      device: what it ran on.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    repeats: int
    compile_s: float
    device: str

    def __str__(self) -> str:
        spread = f"{self.low_ms:.3g}–{self.high_ms:.3g}"
        return f"{self.median_ms:.3g} ms ({spread}, {self.repeats} × {self.device})"


def latency(fn: Callable[..., Any], *args: Any, repeats: int = 20) -> Latency:
    """Measures `fn(*args)`: compiled once, warmed up, each call waited for.

    Args:
      fn: any JAX function. If it is jitted already its donations are not used, so that
        the arguments last.
      *args: its arguments; they are moved to the device before timing. Python values
        that are not arrays are constants.
      repeats: number of calls measured, at least 1.

    Example:
      >>> import jax.numpy as jnp
      >>> latency(jnp.dot, jnp.ones((2, 3)), jnp.ones((3, 5)), repeats=3).repeats
      3
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    traced, arrays = _close_over_constants(fn, args)
    arrays = jax.block_until_ready(jax.tree.map(jnp.asarray, arrays))
    start = time.perf_counter()
    compiled = jax.jit(traced).lower(*arrays).compile()
    compile_s = time.perf_counter() - start
    for _ in range(2):
        jax.block_until_ready(compiled(*arrays))
    times = [_seconds(compiled, arrays) for _ in range(repeats)]
    low, median, high = 1000 * np.quantile(times, [0.25, 0.5, 0.75])
    return Latency(*map(float, (median, low, high)), repeats, compile_s, device_name())


def device_name() -> str:
    """The default device, by name: "Intel(R) Xeon(R) … (CPU, 2 cores)", "NVIDIA …"."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.device_kind} ({device.platform.upper()})"
    return f"{_processor()} (CPU, {os.cpu_count()} cores)"


def _seconds(compiled: Callable[..., Any], arrays: list[Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arrays))
    return time.perf_counter() - start


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()


def _close_over_constants(
    fn: Callable[..., Any], args: tuple[Any, ...]
) -> tuple[Callable[..., Any], list[Any]]:
    """`fn` as a function of the array leaves of `args` alone, and these leaves."""
    leaves, structure = jax.tree.flatten(args)
    where = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape")]

    def of_arrays(*arrays: Any) -> Any:
        filled = dict(enumerate(leaves)) | dict(zip(where, arrays, strict=True))
        return fn(*jax.tree.unflatten(structure, filled.values()))

    return of_arrays, [leaves[i] for i in where]


def _macs(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return sum(map(_equation_macs, jaxpr.eqns))


def _equation_macs(eqn: JaxprEqn) -> int:
    match eqn.primitive.name:
        case "dot_general":
            return _dot_macs(eqn)
        case "conv_general_dilated":
            return _conv_macs(eqn)
        case "cond":
            return max(map(_macs, eqn.params["branches"]))
    inner = sum(map(_macs, jaxprs_in_params(eqn.params)))
    match eqn.primitive.name:
        case "scan":
            return inner * eqn.params["length"]
        case "shard_map":
            return inner * eqn.params["mesh"].size
        case "while" if inner:
            raise ValueError(
                "a while_loop contracts arrays, and how often it runs is not known: "
                "use scan, or a fori_loop with constant bounds"
            )
    return inner


def _dot_macs(eqn: JaxprEqn) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    lhs = eqn.invars[0].aval.shape
    return math.prod(eqn.outvars[0].aval.shape) * math.prod(lhs[a] for a in contracted)


def _conv_macs(eqn: JaxprEqn) -> int:
    """Outputs × input channels of a group × taps; inputs × taps where they dilate."""
    lhs, rhs = (v.aval.shape for v in eqn.invars)
    out = eqn.outvars[0].aval.shape
    dims = eqn.params["dimension_numbers"]
    (_, _, *lhs_space) = dims.lhs_spec
    (_, rhs_in, *rhs_space) = dims.rhs_spec
    (out_batch, out_features, *out_space) = dims.out_spec
    total = out[out_batch] * out[out_features] * rhs[rhs_in]
    for i, dilation in enumerate(eqn.params["lhs_dilation"]):
        positions = lhs[lhs_space[i]] if dilation > 1 else out[out_space[i]]
        total *= rhs[rhs_space[i]] * positions
    return total
