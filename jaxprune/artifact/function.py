"""Functions in a file, as StableHLO: they run without the code that made them."""

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp

from jaxprune.artifact.files import ArtifactError, read, write_whole
from jaxprune.types import Params

_MAGIC = b"jaxprune function 1\n"
_DIGEST_BYTES = 32


def export_function(
    fn: Callable[..., Any],
    variables: Params,
    *inputs: Any,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> jax.export.Exported:
    """Lowers `fn(variables, *inputs)` to StableHLO, for any batch size if it can be.

    The leading axis of every input is the batch. Where `fn` needs to know its size (it
    reshapes by it, say), the function is exported for the size of the examples.

    Args:
      fn: function of the variables and the inputs.
      variables: pytree of arrays, or of shapes; their values are not stored.
      *inputs: examples, or shapes, (batch, …).
      platforms: where it shall run.

    Returns:
      What `jax.export` returns: `.call(variables, *inputs)`; `.in_avals` tells whether
      the batch is free (a symbol) or fixed.

    Example:
      >>> import jax.numpy as jnp
      >>> dense = lambda v, x: x @ v["w"]
      >>> exported = export_function(dense, {"w": jnp.ones((3, 2))}, jnp.ones((4, 3)))
      >>> exported.in_avals[1].shape[0], exported.call(
      ...     {"w": jnp.ones((3, 2))}, jnp.ones((7, 3))
      ... ).shape
      (b, (7, 2))
    """
    shapes = jax.tree.map(_shape, (variables, *inputs))
    (batch,) = jax.export.symbolic_shape("b")
    free = jax.tree.map(
        lambda s: jax.ShapeDtypeStruct((batch, *s.shape[1:]), s.dtype), shapes[1:]
    )
    export = jax.export.export(jax.jit(fn), platforms=list(platforms))
    try:
        return export(shapes[0], *free)
    except Exception:
        return export(*shapes)


def save_function(path: str | os.PathLike, exported: jax.export.Exported) -> int:
    """Writes an exported function, whole or not at all; returns the bytes written.

    The package `flatbuffers`, which `jax.export` writes with, must be installed.
    """
    content = bytes(exported.serialize())
    content = _MAGIC + hashlib.sha256(content).digest() + content
    write_whole(path, content)
    return len(content)


def load_function(path: str | os.PathLike) -> Callable[..., Any]:
    """Reads what `save_function` wrote.

    Returns:
      The function, `(variables, *inputs) → outputs`; jit it as any other.

    Raises:
      FileNotFoundError: there is no such file.
      ArtifactError: not such a file, truncated or changed.
    """
    content = read(path)
    if not content.startswith(_MAGIC):
        raise ArtifactError(f"{path} is not a jaxprune function")
    content = content[len(_MAGIC) :]
    digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise ArtifactError(f"{path} is truncated or was changed")
    return jax.export.deserialize(bytearray(body)).call


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf))
