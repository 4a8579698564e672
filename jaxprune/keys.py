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

    Negative floats are mirrored, −0 and 0 both give 0, NaN is above infinity.

    Example:
      >>> key(jnp.array([-1.0, -0.0, 0.0, jnp.inf]))
      Array([-1065353216,           0,           0,  2139095040], dtype=int32)
    """
    bits = _bits(x, wide)
    lowest = jnp.iinfo(bits.dtype).min
    ordered = jnp.where(bits < 0, lowest - bits, bits)
    below_infinity = -_infinity(bits.dtype)
    return jnp.where(ordered < below_infinity, jnp.iinfo(bits.dtype).max, ordered)


def from_key(keys: Array, dtype: jnp.dtype) -> Array:
    """The floats that `key` made these integers from; 0 for both zeros.

    Example:
      >>> from_key(key(jnp.array([-1.5, 2.0])), jnp.float32)
      Array([-1.5,  2. ], dtype=float32)
    """
    lowest = jnp.iinfo(keys.dtype).min
    bits = jnp.where(keys < 0, lowest - keys, keys)
    if dtype == jnp.bfloat16:
        return lax.bitcast_convert_type((bits >> 16).astype(jnp.int16), dtype)
    same_size = jnp.float64 if bits.dtype == jnp.int64 else jnp.float32
    return lax.bitcast_convert_type(bits, same_size).astype(dtype)


def extent(integer: jnp.dtype) -> tuple[Array, Array]:
    """The least key, that of −∞, and the greatest, that of NaN.

    Example:
      >>> extent(jnp.int32)
      (Array(-2139095040, dtype=int32), Array(2147483647, dtype=int32))
    """
    least, greatest = -_infinity(integer), jnp.iinfo(integer).max
    return jnp.array(least, integer), jnp.array(greatest, integer)


def _infinity(integer: jnp.dtype) -> int:
    floating = np.float64 if integer == jnp.int64 else np.float32
    return int(np.array(np.inf, floating).view(integer))


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
