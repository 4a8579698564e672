"""Weights in a safetensors file: pruned ones as a coded mask and the values kept.

Each leaf is stored in whichever way is smaller, as it is or sparse; so a weight-pruned
leaf takes what its values and the entropy of its mask take. Only the bit pattern +0.0
is left out (−0.0 is a value), so a network comes back bit for bit.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxprune.artifact import gaps
from jaxprune.artifact.files import ArtifactError, read, write_whole
from jaxprune.plan import Plan

FORMAT = "jaxprune network 1"
_INDEX = "#index"
Key = str | int


@dataclass(frozen=True)
class Artifact:
    """What a file holds.

    Attributes:
      variables: nested dict of NumPy arrays.
      plan: what was removed on the way from the dense network, if anything.
      metadata: what the writer added: class names, accuracy, provenance.
    """

    variables: dict[Key, Any]
    plan: Plan | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class _Leaf:
    """How a leaf is stored. count and low_bits: of its mask, if it has one."""

    path: list[Key]
    shape: list[int]
    dtype: str
    count: int | None = None
    low_bits: int | None = None

    @property
    def name(self) -> str:
        return "/".join(map(str, self.path))


def save(
    path: str | os.PathLike,
    variables: Mapping[Key, Any],
    *,
    plan: Plan | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> int:
    """Writes a network to a file, whole or not at all.

    Args:
      path: the file, by custom called `….safetensors`.
      variables: nested mappings, with text or integer keys, of arrays of any dtype.
      plan: how the dense network became this one.
      metadata: anything JSON can hold: class names, accuracy, provenance.

    Returns:
      The size of the file in bytes.

    Raises:
      ValueError: a leaf that is not an array, a key that is neither text nor integer.
      OSError: it cannot be written; a file that was there is as it was.

    Example:
      >>> import tempfile, numpy as np
      >>> file = tempfile.mktemp(suffix=".safetensors")
      >>> kernel = np.where(np.arange(2000) % 20 == 0, 1.5, 0).astype(np.float32)
      >>> save(file, {"params": {"kernel": kernel}}) < kernel.nbytes / 4
      True
      >>> back = load(file).variables["params"]["kernel"]
      >>> np.array_equal(back, kernel)
      True
    """
    tensors: dict[str, np.ndarray] = {}
    leaves = [_store(path, leaf, tensors) for path, leaf in _walk(variables)]
    if len({leaf.name for leaf in leaves}) < len(leaves):
        raise ValueError("two leaves have the same path when it is joined by slashes")
    index = {
        "leaves": [_compact(leaf) for leaf in leaves],
        "empty": list(_empty(variables)),
        "plan": None if plan is None else plan.to_json(),
    }
    packed = zlib.compress(_json(index).encode(), 9)
    tensors[_INDEX] = np.frombuffer(packed, np.uint8)
    header = {"format": FORMAT, "metadata": _json(dict(metadata or {}))}
    header["sha256"] = _digest(tensors, header)
    content = safetensors.numpy.save(tensors, metadata=header)
    write_whole(path, content)
    return len(content)


def load(path: str | os.PathLike) -> Artifact:
    """Reads what `save` wrote, and checks all of it.

    Raises:
      FileNotFoundError: there is no such file.
      ArtifactError: truncated, changed, or not such a file; one line that says which.
    """
    tensors, header = _parse(path, read(path))
    try:
        index = json.loads(zlib.decompress(tensors[_INDEX].tobytes()))
        variables: dict[Key, Any] = {}
        for keys in index["empty"]:
            _put(variables, keys, {})
        for fields in index["leaves"]:
            leaf = _Leaf(**fields)
            _put(variables, leaf.path, _restore(leaf, tensors))
        plan = Plan.from_json(index["plan"]) if index["plan"] else None
        return Artifact(variables, plan, json.loads(header["metadata"]))
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        raise ArtifactError(f"{path} contradicts itself: {error}") from error


def bound(variables: Mapping[Key, Any]) -> int:
    """Bytes of the kept values plus the entropy of each leaf's mask.

    Example:
      >>> import numpy as np
      >>> bound({"a": np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)})
      17
    """
    total = 0.0
    for _, leaf in _walk(variables):
        array = _bits(leaf)
        total += np.count_nonzero(array) * array.itemsize
        total += gaps.entropy_bytes(array.ravel() != 0)
    return round(total)


def _store(path: list[Key], leaf: Any, tensors: dict[str, np.ndarray]) -> _Leaf:
    """Puts a leaf's tensors into `tensors`, in whichever way is smaller."""
    bits = _bits(leaf)
    stored = _Leaf(path, list(leaf.shape), str(leaf.dtype))
    kept = bits.ravel() != 0
    code, low_bits = gaps.encode(kept)
    values = bits.ravel()[kept]
    if len(code) + values.nbytes >= bits.nbytes:
        tensors[stored.name] = _plain(leaf, bits)
        return stored
    tensors[f"{stored.name}#mask"] = code
    tensors[f"{stored.name}#values"] = values
    return _Leaf(path, stored.shape, stored.dtype, len(values), low_bits)


def _restore(leaf: _Leaf, tensors: dict[str, np.ndarray]) -> np.ndarray:
    dtype = jnp.dtype(leaf.dtype)
    if leaf.count is None:
        return tensors[leaf.name].view(dtype).reshape(leaf.shape)
    values = tensors[f"{leaf.name}#values"]
    size = int(np.prod(leaf.shape, dtype=np.int64))
    kept = gaps.decode(tensors[f"{leaf.name}#mask"], leaf.low_bits, leaf.count, size)
    flat = np.zeros(size, values.dtype)
    flat[kept] = values
    return flat.view(dtype).reshape(leaf.shape)


def _bits(leaf: Any) -> np.ndarray:
    """The leaf's bit patterns, flat, as unsigned integers; as bytes where too wide."""
    array = np.ascontiguousarray(leaf).reshape(leaf.shape)
    width = array.itemsize if array.itemsize in (1, 2, 4, 8) else 1
    return array.reshape(-1).view(f"<u{width}")


def _plain(leaf: Any, bits: np.ndarray) -> np.ndarray:
    """As floats where safetensors for NumPy knows the dtype, else as bit patterns."""
    array = np.ascontiguousarray(leaf).reshape(leaf.shape)
    known = array.dtype.isbuiltin == 1 and array.dtype.kind in "biuf"
    return array if known else bits


def _walk(tree: Mapping[Key, Any]) -> Iterator[tuple[list[Key], Any]]:
    """(path, leaf) of every leaf; complains about what cannot be stored."""
    if not isinstance(tree, Mapping):
        raise ValueError(
            f"variables must be nested mappings, got {type(tree).__name__}"
        )
    for key, value in tree.items():
        if not isinstance(key, Key):
            raise ValueError(f"a key must be text or an integer, got {key!r}")
        if isinstance(value, Mapping):
            yield from (([key, *path], leaf) for path, leaf in _walk(value))
        elif not isinstance(getattr(value, "dtype", None), np.dtype):
            raise ValueError(f"{key!r} holds {type(value).__name__}, not an array")
        else:
            yield [key], value


def _empty(tree: Mapping[Key, Any]) -> Iterator[list[Key]]:
    """Paths of the mappings that hold nothing."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from ([key, *path] for path in _empty(value) if value)
            if not value:
                yield [key]


def _put(tree: dict[Key, Any], path: list[Key], value: Any) -> None:
    *parents, last = path
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value


def _parse(path: Any, content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and header of a file that is whole and ours."""
    try:
        tensors = safetensors.numpy.load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"{path} is truncated, or not a safetensors file: {error}"
        ) from error
    form = header.get("format", "none")
    if form != FORMAT:
        raise ArtifactError(f"{path} has format {form!r}, expected {FORMAT!r}")
    if header.pop("sha256", None) != _digest(tensors, header):
        raise ArtifactError(f"{path} was changed: its SHA-256 is not the one it states")
    return tensors, header


def _digest(tensors: Mapping[str, np.ndarray], header: Mapping[str, str]) -> str:
    """SHA-256 over all that is stored, but itself."""
    digest = hashlib.sha256(_json(dict(header)).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(_json([name, tensor.dtype.name, list(tensor.shape)]).encode())
        digest.update(np.ascontiguousarray(tensor).data if tensor.size else b"")
    return digest.hexdigest()


def _compact(leaf: _Leaf) -> dict[str, Any]:
    return {key: value for key, value in asdict(leaf).items() if value is not None}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
