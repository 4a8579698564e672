"""Handwritten digits that come with scikit-learn: real data without a network."""

import numpy as np

from experiments.data.dataset import SIDE, Dataset

TEST_EXAMPLES = 360


def load() -> Dataset:
    """1,797 digits of 8 × 8 pixels, enlarged to 32 × 32 × 3; 1,437 train, 360 test.

    The split is fixed (a permutation with seed 0).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = np.stack([_enlarge(digits.images[i]) for i in order])
    labels = digits.target[order].astype(np.int32)
    return Dataset(
        name="digits",
        train_images=images[TEST_EXAMPLES:],
        train_labels=labels[TEST_EXAMPLES:],
        test_images=images[:TEST_EXAMPLES],
        test_labels=labels[:TEST_EXAMPLES],
        class_names=tuple(map(str, range(10))),
        source="scikit-learn's load_digits (UCI optical recognition of digits)",
    )


def _enlarge(digit: np.ndarray) -> np.ndarray:
    """Grey levels 0 … 16, (8, 8) → uint8 (32, 32, 3), bilinear."""
    from PIL import Image

    grey = Image.fromarray(np.uint8(np.round(digit * (255 / 16))))
    large = grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.repeat(np.asarray(large)[..., None], 3, axis=-1)
