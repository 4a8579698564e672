"""Data sets that have to be downloaded: TFDS's mock data, through the real pipeline."""

import io

import harness
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import data, train
from experiments.data.quiet import quiet_tfds

COUNT, SIZE = 20, 32
RECIPE = train.Recipe(epochs=1, batch_size=8)
NAMES = sorted({*data.NAMES} - {"digits", "mock_imagenet"})
CLASSES = {"cifar100": 100, "imagenet2012": 1000}


def _as_file(example, form):
    """The example with its image as a file, which TFDS stores as it is."""
    file = io.BytesIO()
    Image.fromarray(example["image"].squeeze()).save(file, form)
    file.seek(0)
    return {**example, "image": file}


def prepare(name, root):
    """Writes mock data as TFDS writes the data set: its features, splits, folders."""
    full_name = data._CONFIGS.get(name, (name,))[0]
    config = full_name.removeprefix(name).removeprefix("/")
    form = "JPEG" if name in data.STREAMED else "PNG"
    splits = ["train", "validation" if name in data.STREAMED else "test"]
    with quiet_tfds() as tfds:
        with tfds.testing.mock_data(num_examples=COUNT):
            real = tfds.builder(full_name, file_format="array_record")
            sources = real.as_data_source(split=splits)
            examples = [[_as_file(x, form) for x in source] for source in sources]

        class Mock(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            """The data set with other images."""

            VERSION = real.version
            pkg_dir_path = root  # of further descriptions: there are none
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

            def _info(self):
                features = real.info.features
                return self.dataset_info_from_configs(features=features)

            def _split_generators(self, dl_manager):
                del dl_manager
                return dict(zip(splits, map(enumerate, examples), strict=True))

            def _generate_examples(self):
                raise NotImplementedError  # the generators are made already

        Mock.name = name
        Mock(data_dir=root, file_format="array_record").download_and_prepare()


@pytest.mark.parametrize("name", NAMES)
def test_loads_and_trains(name, tmp_path):
    prepare(name, tmp_path)
    found = data.load(name, tmp_path, size=SIZE, workers=0)
    assert str(tmp_path) in found.source
    assert found.classes == CLASSES.get(name, 10)
    assert found.train_count == COUNT
    assert found.example.shape == (1, SIZE, SIZE, 3)
    assert found.example.dtype == np.uint8
    for images, labels in found.test_batches():
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert labels.max() < found.classes
    if name.endswith("mnist"):  # 28 × 28, one colour
        assert not found.train_images[:, :2].any()
        assert np.array_equal(found.train_images[..., 0], found.train_images[..., 2])
    start = {"kernel": jnp.zeros((3, found.classes)), "bias": jnp.zeros(found.classes)}
    variables = {"params": {"Dense_0": start}, "batch_stats": {"mean": jnp.zeros(3)}}
    fitted = train.fit(harness.NETWORK, variables, harness.sgd(), found, RECIPE)
    assert fitted.result["step"] == COUNT // RECIPE.batch_size
    assert np.isfinite(fitted.result["loss"])
    assert np.any(fitted.trained["params"]["Dense_0"]["kernel"] != 0)
