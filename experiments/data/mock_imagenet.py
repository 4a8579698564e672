"""Made-up JPEG files as a TFDS data set: for tests, and to measure reading.

An image is a bright bar on noise; where the bar stands tells the class.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.data.quiet import quiet_tfds

CLASSES = 8
_SIDES = (280, 500)


def write(root: Path, train: int = 512, validation: int = 128) -> None:
    """Makes `root/mock_imagenet/1.0.0` with so many images."""
    with quiet_tfds() as tfds:

        class MockImagenet(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            """Made-up images."""

            name = "mock_imagenet"
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                image = tfds.features.Image(encoding_format="jpeg")
                label = tfds.features.ClassLabel(num_classes=CLASSES)
                return self.dataset_info_from_configs(
                    features=tfds.features.FeaturesDict(
                        {"image": image, "label": label}
                    )
                )

            def _split_generators(self, dl_manager):
                del dl_manager
                return {
                    "train": self._generate_examples(0, train),
                    "validation": self._generate_examples(1, validation),
                }

            def _generate_examples(self, seed, count):
                yield from examples(seed, count)

        MockImagenet(data_dir=root, file_format="array_record").download_and_prepare()


def examples(seed: int, count: int) -> Iterator[tuple[int, dict]]:
    """Keys, and images (file objects) with labels."""
    rng = np.random.default_rng(seed)
    for key in range(count):
        label = int(rng.integers(CLASSES))
        height, width = rng.integers(*_SIDES, 2)
        yield key, {"image": _jpeg(label, height, width, rng), "label": label}


def _jpeg(label: int, height: int, width: int, rng: np.random.Generator) -> io.BytesIO:
    from PIL import Image

    coarse = rng.integers(0, 160, (-(-height // 4), -(-width // 4), 3), np.uint8)
    pixels = np.kron(coarse, np.ones((4, 4, 1), np.uint8))[:height, :width]
    pixels[..., label % 3] //= 2
    first, last = (height * (label + k) // (CLASSES + 1) for k in (0, 2))
    pixels[first:last] += 95
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    file.seek(0)
    return file
