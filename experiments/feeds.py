"""Where a training's batches come from: arrays on the device, or a stream of files.

A feed is asked for what an update needs (`fetch`, outside jit) and for inputs and
labels made of it (`read`, inside jit). Both depend on the keys and on the number of the
update alone, so a training can go on anywhere.
"""

from collections.abc import Iterator
from functools import cached_property, partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from experiments import augment
from experiments.data.streaming import Stream
from experiments.devices import Placement
from experiments.recipe import Recipe
from experiments.step import Examples, Inputs


class Keys(NamedTuple):
    """Of the order of the images, and of the batches that statistics are taken from."""

    order: jax.Array
    statistics: jax.Array


class Feed(Protocol):
    """What `fit` asks for.

    Attributes:
      count: number of training images.
      size: height and width of the images, in pixels.
      fused: whether one `fetch` is enough for several updates.
    """

    count: int
    size: int
    fused: bool

    def fetch(self, step: int) -> Any:
        """What `read` needs for the update number `step`; steps come in order."""

    def read(self, fetched: Any, index: Any, key: jax.Array, px: int) -> Inputs:
        """Batch `index` of the epoch: augmented, normalised inputs at `px`, labels."""

    def sample(self, batches: int) -> Iterator[jax.Array]:
        """Inputs of so many training batches at most, to take statistics from."""

    def test(self) -> Examples | Iterator[Examples]:
        """The test images, as `evaluate` takes them."""

    def close(self) -> None:
        """Ends what runs beside."""


def feed(dataset: Any, recipe: Recipe, placement: Placement, keys: Keys) -> Feed:
    """The feed that suits a data set: a `Stream`, or one that is held in memory."""
    kind = Streamed if isinstance(dataset, Stream) else Resident
    return kind(dataset, recipe, placement, keys)


def held_out(dataset: Any) -> Examples | Iterator[Examples]:
    """The test images of a data set, as `evaluate` takes them, on one device."""
    if isinstance(dataset, Stream):
        return (Examples(*map(jnp.asarray, batch)) for batch in dataset.test_batches())
    return Examples(jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels))


def shuffled(key: jax.Array, epoch: int, count: int) -> jax.Array:
    """The order of the examples in an epoch: a function of (key, epoch) alone."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), count)


class Resident:
    """All images on the device; shuffled, cropped and flipped there."""

    def __init__(self, dataset: Any, recipe: Recipe, placement: Placement, keys: Keys):
        self.dataset, self.recipe = dataset, recipe
        self.placement, self.keys = placement, keys
        self.count, self.size = dataset.train_images.shape[:2]
        self.per_epoch = recipe.steps_per_epoch(self.count)
        self.fused = True
        self.flip = augment.can_flip(dataset.name)
        self.normalisation = augment.normalisation(dataset)
        self._order_of: int | None = None

    @cached_property
    def _train(self) -> Examples:
        dataset = self.dataset
        return self.placement.put(Examples(dataset.train_images, dataset.train_labels))

    @cached_property
    def _test(self) -> Examples:
        dataset = self.dataset
        return self.placement.put(Examples(dataset.test_images, dataset.test_labels))

    def fetch(self, step: int) -> tuple[Examples, jax.Array]:
        epoch = step // self.per_epoch
        if self._order_of != epoch:
            self._order = shuffled(self.keys.order, epoch, self.count)
            self._order_of = epoch
        return self._train, self._order

    def read(self, fetched: Any, index: Any, key: jax.Array, px: int) -> Inputs:
        examples, order = fetched
        size = self.recipe.batch_size
        chosen = jax.lax.dynamic_slice(order, (index * size,), (size,))
        if self.placement.batch is not None:
            chosen = jax.lax.with_sharding_constraint(chosen, self.placement.batch)
        crop_key, flip_key = jax.random.split(key)
        images = examples.images[chosen]
        images = augment.random_crop(crop_key, images, self.recipe.crop)
        if self.flip:
            images = augment.random_flip(flip_key, images)
        inputs = augment.normalise(images, self.normalisation)
        return augment.resize(inputs, px), examples.labels[chosen]

    def sample(self, batches: int) -> Iterator[jax.Array]:
        key = self.keys.statistics
        fetched = self._train, shuffled(key, 0, self.count)
        read = jax.jit(partial(self.read, px=self.size))
        for i in range(min(batches, self.per_epoch)):
            yield read(fetched, i, jax.random.fold_in(key, i))[0]

    def test(self) -> Examples:
        return self._test

    def close(self) -> None:
        pass


class Streamed:
    """Images that worker processes decode and crop; one batch at a time is here."""

    def __init__(
        self, stream: Stream, recipe: Recipe, placement: Placement, keys: Keys
    ):
        self.stream, self.recipe = stream, recipe
        self.placement, self.keys = placement, keys
        self.count, self.size = stream.train_count, stream.size
        self.fused = False
        self.normalisation = augment.normalisation(stream)
        self._train = self._test = None

    def fetch(self, step: int) -> Examples:
        if self._train is None:
            self._train = self._batches(self.keys.order, self.recipe.epochs, step)
        return self._put(next(self._train))

    def read(self, fetched: Any, index: Any, key: jax.Array, px: int) -> Inputs:
        del index, key  # this batch, cropped and flipped already
        inputs = augment.normalise(fetched.images, self.normalisation)
        return augment.resize(inputs, px), fetched.labels

    def sample(self, batches: int) -> Iterator[jax.Array]:
        read = jax.jit(partial(self.read, index=0, key=self.keys.order, px=self.size))
        stream = self._batches(self.keys.statistics, 1, 0)
        try:
            for batch in islice(stream, batches):
                yield read(self._put(batch))[0]
        finally:
            stream.close()

    def test(self) -> Iterator[Examples]:
        batch_size = self.recipe.batch_size
        if self._test is None:  # one stream for all epochs: its workers stay
            self._test = self.stream.test_batches(batch_size, passes=None)
        batches = -(-len(self.stream.test) // batch_size)
        return map(self._put, islice(self._test, batches))

    def close(self) -> None:
        for stream in (self._train, self._test):
            if stream is not None:
                stream.close()

    def _batches(self, key: jax.Array, epochs: int, first: int) -> Iterator[Any]:
        return self.stream.train_batches(
            self.recipe.batch_size,
            seed=int(jax.random.bits(key)),
            epochs=epochs,
            first=first,
        )

    def _put(self, batch: Any) -> Examples:
        """A batch, of which each host has its share, split over all devices."""
        if self.placement.batch is None:
            return Examples(*map(jnp.asarray, batch))
        put = jax.make_array_from_process_local_data
        return Examples(*(put(self.placement.batch, array) for array in batch))
