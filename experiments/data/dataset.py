"""A data set in memory, and what goes wrong on the way there."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

SIDE = 32
"""Height and width, in pixels, of every image a `Dataset` holds."""


class DataError(RuntimeError):
    """Data are missing, damaged or not what they should be; the message says which."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, split for training and testing.

    Attributes:
      name: "cifar10", "digits", …
      train_images: uint8, (examples, 32, 32, 3).
      train_labels: int32, (examples,).
      test_images: uint8, (examples, 32, 32, 3).
      test_labels: int32, (examples,).
      class_names: one for each label.
      source: where the data came from, for provenance.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    source: str

    def __post_init__(self):
        _check(self.name, "train", self.train_images, self.train_labels, self.classes)
        _check(self.name, "test", self.test_images, self.test_labels, self.classes)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train_images)

    @property
    def size(self) -> int:
        """Height and width of the images, in pixels."""
        return self.train_images.shape[1]

    @property
    def example(self) -> np.ndarray:
        """The first test image, as a batch."""
        return self.test_images[:1]

    def test_batches(
        self, batch_size: int = 500
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Test images and labels, in order; the last batch may be smaller."""
        for i in range(0, len(self.test_images), batch_size):
            part = slice(i, i + batch_size)
            yield self.test_images[part], self.test_labels[part]

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean of each colour over the training images, float32 (3,), in [0, 1]."""
        return self._moments[0]

    @cached_property
    def std(self) -> np.ndarray:
        """Standard deviation of each colour, float32 (3,), in units of [0, 1]."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        levels = np.arange(256) / 255
        colours = np.moveaxis(self.train_images, -1, 0).reshape(3, -1)
        share = np.stack([np.bincount(c, minlength=256) / c.size for c in colours])
        mean = share @ levels
        variance = share @ levels**2 - mean**2
        return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def fit(image: np.ndarray) -> np.ndarray:
    """`image`, uint8 (H, W, 1 or 3), H and W ≤ 32, padded with zeros to (32, 32, 3)."""
    height, width, colours = image.shape
    if max(height, width) > SIDE or colours not in (1, 3):
        raise DataError(f"an image has shape {image.shape}, larger than 32 × 32 × 3")
    pad = [((SIDE - n) // 2, (SIDE - n + 1) // 2) for n in (height, width)]
    padded = np.pad(image, [*pad, (0, 0)])
    return np.broadcast_to(padded, (SIDE, SIDE, 3))


def _check(name, split, images, labels, classes) -> None:
    where = f"{name}, {split}:"
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE, 3):
        raise DataError(
            f"{where} images are {images.dtype} {images.shape}, not uint8 "
            f"(N, {SIDE}, {SIDE}, 3)"
        )
    if len(images) == 0 or labels.shape != images.shape[:1]:
        raise DataError(f"{where} {len(images)} images but {len(labels)} labels")
    if labels.dtype != np.int32 or labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{where} labels are not int32 in 0 … {classes - 1}")
