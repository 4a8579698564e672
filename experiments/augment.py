"""Images into inputs: crop, flip, normalise, resize, all on the device."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_NEVER_FLIPPED = frozenset({"digits", "mnist", "svhn", "svhn_cropped"})


class Normalisation(NamedTuple):
    """Mean and standard deviation per channel, for pixels in [0, 1]."""

    mean: np.ndarray
    std: np.ndarray


def normalisation(dataset: Any) -> Normalisation:
    """Of a `Dataset`: by the statistics of its training images."""
    return Normalisation(dataset.mean, np.maximum(dataset.std, 1 / 255))


def normalise(images: jax.Array, by: Normalisation) -> jax.Array:
    """uint8 pixels to float32 of mean 0 and deviation 1 per channel."""
    return (images.astype(jnp.float32) / 255 - by.mean) / by.std


def can_flip(dataset_name: str) -> bool:
    """Whether a mirrored image still shows the same class: not so for digits."""
    return dataset_name not in _NEVER_FLIPPED


def random_crop(key: jax.Array, images: jax.Array, pad: int) -> jax.Array:
    """Shifts each image by up to `pad` pixels either way; borders are reflected."""
    if pad == 0:
        return images
    margins = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = jnp.pad(images, margins, mode="reflect")
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pad + 1)

    def crop(image, corner):
        return jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half."""
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def resize(images: jax.Array, pixels: int) -> jax.Array:
    """Bilinear, with anti-aliasing, to `pixels` × `pixels`."""
    batch, height, width, channels = images.shape
    if height == width == pixels:
        return images
    return jax.image.resize(images, (batch, pixels, pixels, channels), "linear")
