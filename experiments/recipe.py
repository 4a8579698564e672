"""How a phase trains: epochs, batches, augmentation."""

import dataclasses

from experiments import ranges


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a phase trains."""

    epochs: int
    """Passes over the training images."""
    batch_size: int = 128
    """Images per update, over all devices together."""
    small_epochs: int = 0
    """Epochs at the start that use images of `small_size`."""
    small_size: int = 24
    """Height and width of the images in those epochs, in pixels."""
    crop: int = 4
    """Random shift of the training images, in pixels either way; 0: none. Streamed
    images are cropped when they are decoded instead."""
    average_last: float = 0.0
    """Share of the steps, at the end, whose parameters are averaged; 0: none."""
    log_every: int = 50
    """Updates between two lines of metrics."""
    seed: int = 0
    """Seed of the order and the augmentation of the images."""

    def __post_init__(self):
        ranges.at_least(1, self, "epochs", "batch_size", "small_size", "log_every")
        ranges.at_least(0, self, "small_epochs", "crop", "seed")
        ranges.share(self, "average_last")

    def steps_per_epoch(self, examples: int) -> int:
        """Whole batches in an epoch; what is left over differs from epoch to epoch."""
        if examples < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {examples} images"
            )
        return examples // self.batch_size

    def steps(self, examples: int) -> int:
        """Updates in all: what a learning-rate schedule needs to know."""
        return self.epochs * self.steps_per_epoch(examples)
