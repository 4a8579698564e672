"""How fast images are read, decoded and cropped, by number of worker processes.

python -m experiments.loading                      # made-up JPEG files
python -m experiments.loading --data imagenet2012 --workers 0 4 8 16
"""

import itertools
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import cli, data, ranges


@dataclass(frozen=True)
class Config:
    """Images per second that reach a training, nothing else being done."""

    data: str = "mock_imagenet"
    """Data set: imagenet2012, imagenette, or mock_imagenet, which is made up."""
    data_dir: Path | None = None
    """Folder of prepared TFDS data sets; $TFDS_DATA_DIR or TFDS's own by default."""
    image_size: int = 224
    """Height and width of the images, in pixels."""
    batch_size: int = 64
    """Images of a batch."""
    batches: int = 30
    """Batches that are timed, after the first."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of worker processes to try; 0: the program itself."""

    def __post_init__(self):
        if self.data not in data.STREAMED:
            raise ValueError(
                f"{self.data} is not streamed: choose from {', '.join(data.STREAMED)}"
            )
        ranges.at_least(1, self, "image_size", "batch_size", "batches")
        if not self.workers or min(self.workers) < 0:
            raise ValueError(f"workers must be 0 or more, got {self.workers}")


def run(config: Config) -> dict[str, Any]:
    """Images per second for each number of workers, and the wait for the first batch.

    Returns:
      What is timed: "source", "cores", "image_size", and under "workers", for each
      number, "images_per_second" and "first_batch_seconds".
    """
    found = {n: _measure(config, n) for n in config.workers}
    stream = data.load(config.data, config.data_dir)
    return {
        "source": stream.source,
        "cores": os.cpu_count(),
        "image_size": config.image_size,
        "workers": found,
    }


def _measure(config: Config, workers: int) -> dict[str, float]:
    stream = data.load(
        config.data, config.data_dir, size=config.image_size, workers=workers
    )
    start = time.perf_counter()
    batches = stream.train_batches(config.batch_size, seed=0, epochs=10**6)
    next(batches)
    first = time.perf_counter()
    for _ in itertools.islice(batches, config.batches):
        pass
    seconds = time.perf_counter() - first
    batches.close()
    return {
        "images_per_second": config.batches * config.batch_size / seconds,
        "first_batch_seconds": first - start,
    }


def main() -> int:
    """The command line."""
    presets = {"all": cli.Preset(Config(), "reading alone, no training")}
    return cli.main(_show, presets, lambda: "all")


def _show(config: Config) -> None:
    print(json.dumps(run(config), indent=2))


if __name__ == "__main__":
    sys.exit(main())
