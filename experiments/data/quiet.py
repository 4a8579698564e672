"""TensorFlow Datasets without its progress bars, prints, warnings and log lines."""

import contextlib
import io
import logging
import warnings


@contextlib.contextmanager
def quiet_tfds():
    """Imports TensorFlow Datasets, which takes seconds, and yields it."""
    absl = logging.getLogger("absl")
    level = absl.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import tensorflow_datasets as tfds

        tfds.disable_progress_bar()
        absl.setLevel(logging.ERROR)
        try:
            yield tfds
        finally:
            absl.setLevel(level)
