"""Data sets too large for memory: JPEG files, decoded while the network trains.

Files prepared by TensorFlow Datasets (TFDS) are read by grain: worker processes decode
and crop, each host reads its own share, and the order depends on the seed alone, so
that a stream can start at any batch.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from experiments.data import jpeg
from experiments.data.dataset import DataError
from experiments.data.quiet import quiet_tfds

BLANK = -1
"""The label of images that only fill up the last batch."""
_TEST_SPLITS = ("validation", "test")
_MOST_WORKERS = 16

Example = dict[str, Any]
Batch = tuple[np.ndarray, np.ndarray]
"""Images, uint8 (N, size, size, 3), and labels, int32 (N,)."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Labelled images that are read while they are used.

    Attributes:
      name: "imagenet2012", "imagenette", …
      train: the examples, `{"image": JPEG bytes, "label": integer}`, by position.
      test: the same.
      class_names: one for each label.
      source: where the data came from, for provenance.
      size: height and width of the images that are handed out, in pixels.
      workers: processes that decode and crop; 0: the process itself.
    """

    name: str
    train: Sequence[Example]
    test: Sequence[Example]
    class_names: tuple[str, ...]
    source: str
    size: int = 224
    workers: int = 0

    test_batch_size: ClassVar[int] = 64
    mean: ClassVar[np.ndarray] = np.float32([0.485, 0.456, 0.406])
    std: ClassVar[np.ndarray] = np.float32([0.229, 0.224, 0.225])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def example(self) -> np.ndarray:
        """The first test image, as a batch."""
        return jpeg.test_image(self.test[0]["image"], self.size)[None]

    def train_batches(
        self, batch_size: int, seed: int, *, epochs: int = 1, first: int = 0
    ) -> Iterator[Batch]:
        """Random crops in random order, this host's share of each batch.

        An epoch has whole batches only; what is left over differs from epoch to epoch.

        Args:
          batch_size: images of a batch, over all hosts together.
          seed: of order and crops, in [0, 2³²); they depend on nothing else.
          epochs: passes over the images.
          first: the batch to start with; those before it cost nothing.
        """
        import grain

        whole = len(self.train) // batch_size * batch_size
        examples = grain.MapDataset.source(self.train).seed(seed).shuffle()
        images = examples[:whole].repeat(epochs).random_map(partial(_crop, self.size))
        return self._batches(images, batch_size, first)

    def test_batches(
        self, batch_size: int = test_batch_size, *, passes: int | None = 1
    ) -> Iterator[Batch]:
        """The middle of each test image, in order, this host's share of each batch.

        All batches are whole: blank images, with the label `BLANK`, fill up the last.

        Args:
          batch_size: images of a batch, over all hosts together.
          passes: over the images; None: without end.
        """
        import grain

        examples = grain.MapDataset.source(_Filled(self.test, batch_size))
        images = examples.repeat(passes).map(partial(_middle, self.size))
        return self._batches(images, batch_size, 0)

    def _batches(self, images: Any, batch_size: int, first: int) -> Iterator[Batch]:
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain asks absl's flags, which nobody gives
        hosts, host = jax.process_count(), jax.process_index()
        if batch_size % hosts:
            raise ValueError(
                f"batch_size {batch_size} cannot be split evenly over {hosts} hosts"
            )
        stream = (
            images[host::hosts]
            .batch(batch_size // hosts)[first:]
            .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=1))
            .mp_prefetch(
                grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=2),
                worker_init_fn=_leave_interrupts_to_parent,
            )
        )
        return _own(iter(stream))


def load(
    name: str, folder: Path, *, size: int = 224, workers: int | None = None
) -> Stream:
    """The data set in a folder that TFDS has prepared.

    Args:
      name: of the data set.
      folder: with `dataset_info.json` and array_record files.
      size: height and width of the images that are handed out, in pixels.
      workers: processes that decode and crop; by default one for each CPU core, at
        most 16.

    Raises:
      DataError: the folder is damaged, or has no labelled images to train and test.
    """
    if workers is None:
        workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    with quiet_tfds() as tfds:
        builder = tfds.builder_from_directory(folder)
        tests = [split for split in _TEST_SPLITS if split in builder.info.splits]
        if "train" not in builder.info.splits or not tests:
            raise DataError(
                f"{folder} has the splits {', '.join(builder.info.splits)}, but train "
                "and validation are needed: prepare it again with both archives"
            )
        train, test = builder.as_data_source(
            split=["train", tests[0]], decoders={"image": tfds.decode.SkipDecoding()}
        )
        names = tuple(builder.info.features["label"].names)
    source = f"TFDS {builder.info.full_name} in {folder}"
    return Stream(name, train, test, names, source, size, workers)


class _Filled:
    """A source filled up with blank examples until `multiple` divides their number."""

    def __init__(self, source: Sequence[Example], multiple: int):
        self.source, self.count = source, -(-len(source) // multiple) * multiple

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        if index < len(self.source):
            return self.source[index]
        return {"image": None, "label": BLANK}


def _crop(size: int, example: Example, rng: np.random.Generator) -> Batch:
    image = jpeg.training_image(example["image"], size, rng)
    return image, np.int32(example["label"])


def _middle(size: int, example: Example) -> Batch:
    if example["image"] is None:
        return np.zeros((size, size, 3), np.uint8), np.int32(BLANK)
    return jpeg.test_image(example["image"], size), np.int32(example["label"])


def _own(iterator: Any) -> Iterator[Batch]:
    """The batches, out of shared memory; the workers end when nobody wants more."""
    try:
        for images, labels in iterator:
            yield np.array(images), np.array(labels)
    finally:
        iterator.close()


def _leave_interrupts_to_parent(worker: int, workers: int) -> None:
    """Ctrl-C reaches all processes: the parent saves its state, then ends them."""
    del worker, workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
