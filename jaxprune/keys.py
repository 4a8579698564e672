"""Integers that compare as floats do, subnormals included.

Hardware may flush subnormal floats to zero in arithmetic and in comparisons; integers
made of their bits keep them apart, and can be halved, counted and searched.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxprune.types import Array


def key(x: Array, wide: bool = False) -> Array:
    """Integers that compare as the floats do: int32, or int64 if `wide`.

    Negative floats are mirrored and −0 becomes 0. Then all turn by as much as puts −∞
    at the least integer, so that NaN of either sign is above infinity.

    Example:
      >>> key(jnp.array([-jnp.inf, -0.0, 0.0, 1.0]))
      Array([-2147483648,    -8388608,    -8388608,  1056964608], dtype=int32)
    """
    bits = _bits(x, wide)
    limits = jnp.iinfo(bits.dtype)
    negative = bits >> limits.bits - 1  # all its bits are set, or none
    return ((bits & limits.max) ^ negative) - negative + _zero(bits.dtype)


def from_key(keys: Array, dtype: jnp.dtype) -> Array:
    """The floats that `key` made these integers from; 0 for both zeros.

    Example:
      >>> from_key(key(jnp.array([-1.5, 2.0])), jnp.float32)
      Array([-1.5,  2. ], dtype=float32)
    """
    ordered = keys - _zero(keys.dtype)
    bits = jnp.where(ordered < 0, jnp.iinfo(keys.dtype).min - ordered, ordered)
    if dtype == jnp.bfloat16:
        return lax.bitcast_convert_type((bits >> 16).astype(jnp.int16), dtype)
    same_size = jnp.float64 if bits.dtype == jnp.int64 else jnp.float32
    return lax.bitcast_convert_type(bits, same_size).astype(dtype)


def extent(integer: jnp.dtype) -> tuple[Array, Array]:
    """The least key, that of −∞, and the greatest, that of a NaN.

    Example:
      >>> extent(jnp.int32)
      (Array(-2147483648, dtype=int32), Array(2147483647, dtype=int32))
    """
    limits = jnp.iinfo(integer)
    return jnp.array(limits.min, integer), jnp.array(limits.max, integer)


def _zero(integer: jnp.dtype) -> int:
    """The key of 0: as far from the least as infinity's bits are from 0."""
    floating = np.float64 if integer == jnp.int64 else np.float32
    infinity = int(np.array(np.inf, floating).view(integer))
    return jnp.iinfo(integer).min + infinity


def _bits(x: Array, wide: bool) -> Array:
    if x.dtype == jnp.bfloat16:  # by hand: a conversion might flush subnormals
        half = lax.bitcast_convert_type(x, jnp.int16).astype(jnp.int32)
        x = lax.bitcast_convert_type(half << 16, jnp.float32)
    elif x.dtype.itemsize < 4:
        x = x.astype(jnp.float32)
    if wide:
        return lax.bitcast_convert_type(_widened(x), jnp.int64)
    return lax.bitcast_convert_type(x, jnp.int32)


def _widened(x: Array) -> Array:
    """float64, subnormals of float32 included."""
    if x.dtype == jnp.float64:
        return x
    bits = lax.bitcast_convert_type(x, jnp.int32)
    tiny = (bits & 0x007FFFFF) * 2.0**-149
    subnormal = bits & 0x7F800000 == 0
    return jnp.where(subnormal, jnp.where(bits < 0, -tiny, tiny), x.astype(jnp.float64))
