"""JPEG files into square images; only as many pixels are decoded as are needed."""

import io
import math

import numpy as np

from experiments.data.dataset import DataError

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels."""

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)
_TRIES = 10
_TEST_SHARE = 224 / 256


def training_image(jpeg: bytes, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random part of the image, mirrored half of the time; uint8 (size, size, 3).

    The part has 8 to 100 % of the area and an aspect ratio of 3:4 to 4:3, as in
    Szegedy et al., 2015.
    """
    pixels = _cut(jpeg, size, lambda width, height: random_box(width, height, rng))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels


def test_image(jpeg: bytes, size: int) -> np.ndarray:
    """The middle of the image: 224 of every 256 pixels of its shorter side."""
    return _cut(jpeg, size, central_box)


def random_box(width: int, height: int, rng: np.random.Generator) -> Box:
    """A box of random area and aspect ratio, or, where ten do not fit, the middle."""
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(*np.log(_ASPECT)))
        w, h = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return left, top, left + w, top + h
    return central_box(width, height, share=1.0)


def central_box(width: int, height: int, share: float = _TEST_SHARE) -> Box:
    """The square in the middle whose side is `share` of the shorter side."""
    side = share * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _cut(jpeg: bytes, size: int, choose) -> np.ndarray:
    """The box that `choose(width, height)` gives, scaled to `size` × `size`."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(jpeg)) as image:
            width, height = image.size
            box = np.array(choose(width, height))
            shrink = size / min(box[2:] - box[:2])
            if shrink < 1:  # let libjpeg decode at 1/2, 1/4 or 1/8
                image.draft("RGB", (int(width * shrink) + 1, int(height * shrink) + 1))
            box *= np.tile(np.divide(image.size, (width, height)), 2)
            cut = image.convert("RGB").resize(
                (size, size), Image.Resampling.BILINEAR, box=tuple(box)
            )
    except OSError as error:
        raise DataError(f"an image cannot be decoded: {error}") from error
    return np.asarray(cut)
