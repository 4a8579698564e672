"""Read a data set that TensorFlow Datasets has prepared, without TensorFlow.

Decoding 60,000 PNG files takes half a minute, so the decoded arrays are kept beside
the prepared files. That cache is only ever a copy: one that is damaged, or older than
what it copies, is decoded again.
"""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from experiments.data.dataset import DataError, Dataset, fit
from experiments.data.quiet import quiet_tfds

_log = logging.getLogger(__name__)
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "class_names")


def find(name: str, root: Path) -> Path | None:
    """The folder `root/name/version` of the newest prepared version, if there is one.

    Args:
      name: as TFDS has it: `data set`, or `data set/config`.
      root: folder of TFDS data sets.

    Raises:
      DataError: there is something, but not this data set, or not readable.
    """
    if (root / "dataset_info.json").exists():
        raise DataError(
            f"{root} is itself a prepared data set ({_info(root)['name']!r}): "
            "give the folder that holds the data sets, such as ~/tensorflow_datasets"
        )
    found = sorted((root / name).glob("[0-9]*/dataset_info.json"), key=_version)
    if not found:
        return None
    folder = found[-1].parent
    info = _info(folder)
    if info["name"] != name.split("/")[0]:
        raise DataError(f"{folder} holds the data set {info['name']!r}, not {name!r}")
    if info["fileFormat"] != "array_record":
        raise DataError(
            f"{folder} holds {info['fileFormat']} files; only array_record can be read "
            "without TensorFlow: prepare it again, or give another data folder"
        )
    return folder


def load(name: str, folder: Path) -> Dataset:
    """The data set in a folder that `find` found, from its cache where that is good.

    Raises:
      DataError: the prepared files are damaged.
    """
    cache = folder / "decoded.npz"
    fingerprint = _fingerprint(folder)
    arrays = _read_cache(cache, fingerprint)
    if arrays is None:
        try:
            arrays = decode(name, folder.parent.parent, version=folder.name)
        except Exception as error:
            raise DataError(
                f"{folder} is damaged ({_line(error)}): delete it, and it is made again"
            ) from error
        _write_cache(cache, fingerprint, arrays)
    return as_dataset(name, arrays, source=f"TFDS {name}/{folder.name} in {folder}")


def as_dataset(name: str, arrays: dict[str, np.ndarray], source: str) -> Dataset:
    """The data set made of what `decode` returns."""
    names = tuple(map(str, arrays["class_names"]))
    return Dataset(name, *(arrays[k] for k in _ARRAYS[:4]), names, source)


def decode(name: str, root: Path | None, version: str | None = None) -> dict:
    """All images and labels of both splits, and the class names, as arrays."""
    with quiet_tfds() as tfds:
        sources = tfds.data_source(
            f"{name}:{version}" if version else name,
            split=["train", "test"],
            data_dir=root,
            download=False,
            builder_kwargs={"file_format": "array_record"},
        )
        arrays = {}
        for split, source in zip(("train", "test"), sources, strict=True):
            images = np.empty((len(source), 32, 32, 3), np.uint8)
            labels = np.empty(len(source), np.int32)
            for i, example in enumerate(source):
                images[i] = fit(example["image"])
                labels[i] = example["label"]
            arrays |= {f"{split}_images": images, f"{split}_labels": labels}
        features = sources[0].dataset_info.features
    return arrays | {"class_names": np.array(features["label"].names)}


def write_beside(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Calls `write(file)` on a temporary file that then takes the place of `path`."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with beside.open("wb") as file:
            write(file)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _read_cache(cache: Path, fingerprint: str) -> dict[str, np.ndarray] | None:
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["fingerprint"]) == fingerprint:
                return {key: stored[key] for key in _ARRAYS}
        _log.info("%s is older than what it copies: decoding again", cache)
    except FileNotFoundError:
        _log.info("decoding %s, once", cache.parent)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        _log.info("%s is damaged (%s): decoding again", cache, _line(error))
    return None


def _write_cache(cache: Path, fingerprint: str, arrays: dict[str, np.ndarray]) -> None:
    try:
        write_beside(cache, lambda f: np.savez(f, fingerprint=fingerprint, **arrays))
    except OSError as error:
        _log.info("no cache of the decoded images: %s", _line(error))


def _fingerprint(folder: Path) -> str:
    """Changes when any prepared file changes its size, or the description changes."""
    files = sorted(folder.glob("*array_record*"))
    described = (folder / "dataset_info.json").read_text()
    sizes = [(f.name, f.stat().st_size) for f in files]
    return hashlib.sha256(repr((described, sizes)).encode()).hexdigest()


def _info(folder: Path) -> dict:
    path = folder / "dataset_info.json"
    try:
        info = json.loads(path.read_text())
        return {"name": info["name"], "fileFormat": info["fileFormat"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a TFDS description: delete {folder}") from error


def _version(info: Path) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in info.parent.name.split(".")]


def _line(error: BaseException) -> str:
    """The error's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
