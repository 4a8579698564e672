"""Streamed images: order, shards, crops, and training on them."""

import dataclasses
import io
import shutil

import harness
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import branches, cli, data, feeds, imagenet, loading, train
from experiments.data import jpeg, mock_imagenet, streaming
from experiments.data.dataset import DataError
from experiments.evaluate import make_evaluate
from experiments.experiment import Experiment
from experiments.runs import open_run

pytestmark = pytest.mark.xdist_group("streaming")  # one set of files for all tests

TRAIN, TEST, SIZE = 45, 21, 16
RECIPE = train.Recipe(epochs=2, batch_size=8, log_every=2, average_last=0.5)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    mock_imagenet.write(root, TRAIN, TEST)
    return root


@pytest.fixture(scope="module")
def stream(root):
    return data.load("mock_imagenet", root, size=SIZE, workers=0)


@pytest.fixture(scope="module")
def numbered(stream):
    """The same images, with their position as label."""
    image = stream.train[0]["image"]
    splits = [[{"image": image, "label": i} for i in range(n)] for n in (TRAIN, TEST)]
    names = tuple(map(str, range(TRAIN)))
    return streaming.Stream("numbered", *splits, names, "", SIZE)


def labels(batches):
    return [y.tolist() for _, y in batches]


def same(one, other):
    pairs = zip(one, other, strict=True)
    return all(
        np.array_equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True)
    )


def test_batches_are_images_and_labels(stream):
    assert (stream.train_count, stream.classes) == (TRAIN, mock_imagenet.CLASSES)
    assert "mock_imagenet/1.0.0" in stream.source
    assert stream.example.shape == (1, SIZE, SIZE, 3)
    for batches, count in (
        (stream.train_batches(8, seed=0), TRAIN // 8),
        (stream.test_batches(8), -(-TEST // 8)),
    ):
        found = list(batches)
        assert len(found) == count
        for images, classes in found:
            assert (images.shape, images.dtype) == ((8, SIZE, SIZE, 3), np.uint8)
            assert (classes.shape, classes.dtype) == ((8,), np.int32)
            assert images[classes >= 0].std() > 0
            assert classes.max() < stream.classes


def test_same_seed_same_batches_from_anywhere(stream):
    batches = list(stream.train_batches(8, seed=3, epochs=2))
    assert same(stream.train_batches(8, seed=3, epochs=2), batches)
    assert same(stream.train_batches(8, seed=3, epochs=2, first=7), batches[7:])
    assert not same(stream.train_batches(8, seed=4, epochs=2), batches)


def test_an_epoch_shows_no_image_twice(numbered):
    found = np.reshape(labels(numbered.train_batches(8, seed=1, epochs=2)), (2, -1))
    assert [len(set(epoch)) for epoch in found.tolist()] == [40, 40]
    assert set(found[0]) != set(found[1])
    assert not np.array_equal(found[0][:8], found[1][:8])


def test_hosts_share_each_batch(numbered, monkeypatch):
    alone = labels(numbered.train_batches(8, seed=1, epochs=2))
    tested = labels(numbered.test_batches(8))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    shares, tests = [], []
    for host in range(2):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        shares.append(labels(numbered.train_batches(8, seed=1, epochs=2)))
        tests.append(labels(numbered.test_batches(8)))
    for batch, first, second in zip(alone, *shares, strict=True):
        assert len(first) == len(second) == 4
        assert sorted(first + second) == sorted(batch)
    assert [len(share) for share in tests] == [len(tested)] * 2
    seen = np.concatenate(tests).ravel()
    assert sorted(seen[seen >= 0]) == list(range(TEST))
    with pytest.raises(ValueError, match="batch_size 7 cannot be split evenly over 2"):
        numbered.train_batches(7, seed=0)


def test_every_test_image_once_and_blanks_marked(numbered):
    first, second, last = labels(numbered.test_batches(8))
    assert first + second + last[:5] == list(range(TEST))
    assert last[5:] == [streaming.BLANK] * 3


def test_workers_give_what_the_process_itself_gives(root, stream):
    helped = data.load("mock_imagenet", root, size=SIZE, workers=2)
    batches = helped.train_batches(8, seed=3, epochs=2)
    expected = stream.train_batches(8, seed=3, epochs=2)
    assert all(same([next(batches)], [next(expected)]) for _ in range(3))
    batches.close()


def test_reading_is_timed(root):
    config = loading.Config(
        data_dir=root, image_size=SIZE, batch_size=8, batches=2, workers=(0,)
    )
    found = loading.run(config)
    assert found["workers"][0]["images_per_second"] > 0
    assert "mock_imagenet" in found["source"]


def _encoded(pixels, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def slope():
    """Red rises to the right, green downwards: positions can be read off."""
    red, green = np.meshgrid(np.linspace(0, 255, 400), np.linspace(0, 255, 320))
    return _encoded(np.stack([red, green, 0 * red], -1).astype(np.uint8))


@pytest.mark.parametrize("size", [14, 56, 224])
def test_middle_of_the_image(size, slope):
    image = jpeg.test_image(slope, size).astype(float)
    side = 0.875 * 320
    left, top = (400 - side) / 2, (320 - side) / 2
    middle = (np.arange(size) + 0.5) * side / size
    np.testing.assert_allclose(
        image[..., 0].mean(0), (left + middle) / 400 * 255, atol=3
    )
    np.testing.assert_allclose(
        image[..., 1].mean(1), (top + middle) / 320 * 255, atol=3
    )


def test_random_parts_lie_inside_and_vary(slope):
    rng = np.random.default_rng(0)
    for width, height in ((400, 320), (1000, 30), (5, 700)):
        boxes = np.array([jpeg.random_box(width, height, rng) for _ in range(50)])
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= width
        assert boxes[:, 3].max() <= height
        w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
        if width == 400:
            assert w.std() > 20
            assert np.all((w * h / 128000 >= 0.08) & (w / h > 0.74) & (w / h < 1.34))
    cut = [jpeg.training_image(slope, 8, rng).astype(int) for _ in range(20)]
    mirrored = sum(image[0, 0, 0] > image[0, -1, 0] for image in cut)
    assert 3 < mirrored < 17


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_become_rgb(mode):
    grey = np.full((40, 60, 3), 128, np.uint8)
    image = jpeg.test_image(_encoded(grey, mode), 8)
    np.testing.assert_allclose(image, 128, atol=3)


def test_damaged_image_is_an_error(slope):
    for damaged in (b"", slope[:500]):
        with pytest.raises(DataError, match="an image cannot be decoded"):
            jpeg.test_image(damaged, 8)


def _variables(classes):
    params = {"kernel": jnp.zeros((3, classes)), "bias": jnp.zeros(classes)}
    return {"params": {"Dense_0": params}, "batch_stats": {"mean": jnp.zeros(3)}}


def fit(stream, folder, **kwargs):
    with open_run(folder, RECIPE, checkpoint_every=0.0) as run:
        return train.fit(
            harness.NETWORK, _variables(stream.classes), harness.sgd(), stream, RECIPE,
            run=run, name="dense", **kwargs,
        )  # fmt: skip


class Crash:
    def start(self, *args):
        pass

    def epoch(self, record):
        pass

    def show(self, record, images_per_second):
        if record["step"] == 7:
            raise RuntimeError("power cut")


def test_training_goes_on_with_the_same_numbers(stream, tmp_path):
    unbroken = fit(stream, tmp_path / "unbroken")
    assert unbroken.result["step"] == 2 * (TRAIN // 8)
    assert np.isfinite(unbroken.result["test_loss"])
    with pytest.raises(RuntimeError, match="power cut"):
        fit(stream, tmp_path / "broken", progress=Crash())
    again = fit(stream, tmp_path / "broken")
    assert harness.equal(again, unbroken)
    assert again.result == unbroken.result


def test_blanks_do_not_count(stream):
    """Evaluation of a stream is that of the same images held in memory."""
    variables = _variables(stream.classes)
    variables["params"]["Dense_0"]["kernel"] += np.linspace(-1, 1, 24).reshape(3, 8)
    batches = list(stream.test_batches(8))
    images, classes = map(np.concatenate, zip(*batches, strict=True))
    kept = feeds.Examples(images[:TEST], classes[:TEST])
    evaluate = make_evaluate(
        harness.NETWORK.predict, feeds.augment.normalisation(stream)
    )
    streamed = evaluate(variables, iter([feeds.Examples(*b) for b in batches]))
    assert streamed == pytest.approx(evaluate(variables, kept), rel=1e-6)
    assert streamed == pytest.approx(evaluate(variables, feeds.held_out(stream)))


@pytest.mark.parametrize("config", ["imagenette/320px-v2", "imagenette/160px"])
def test_configs_of_a_data_set_are_found(config, root, tmp_path):
    name = config.split("/")[0]
    folder = shutil.copytree(root / "mock_imagenet/1.0.0", tmp_path / config / "1.0.0")
    for path in folder.iterdir():
        renamed = folder / path.name.replace("mock_imagenet", name)
        path.rename(renamed)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("mock_imagenet", name))
    found = data.load(name, tmp_path, size=SIZE, workers=0)
    assert (found.name, found.train_count) == (name, TRAIN)
    assert len(labels(found.test_batches(8))) == 3


def test_missing_imagenet_is_exit_code_2_and_says_what_to_do(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    args = ["--preset", "full", "--data-dir", str(tmp_path)]
    presets = imagenet.presets("vgg16")
    assert cli.main(imagenet.run, presets, lambda: "quick", args) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for part in (
        "no prepared folder in",
        "TensorFlow",
        "ILSVRC2012_img_train.tar",
        "tfds build imagenet2012",
        "--data mock_imagenet",
    ):
        assert part in err
    with pytest.raises(DataError, match="tfds build imagenette/320px-v2"):
        data.load("imagenette", tmp_path)


@pytest.mark.parametrize("network", imagenet.NETWORKS)
def test_presets_suit_their_network(network, stream):
    kind = imagenet.NETWORKS[network]
    for preset in imagenet.presets(network).values():
        assert preset.config.network == network
        assert ("channels" in preset.config.methods) == kind.batch_norm
    smoke = imagenet.presets(network)["smoke"].config
    item = stream.test[0]
    many = dataclasses.replace(stream, train=[item] * 512, size=smoke.image_size)
    branches.check(Experiment(smoke, kind.architecture, many, None, None))


@pytest.mark.slow
def test_smoke_run(root, tmp_path):
    config = imagenet.presets("mobilenet")["smoke"].config
    config = dataclasses.replace(
        config, workdir=tmp_path / "run", data_dir=root, workers=1, batch_size=8
    )
    report = imagenet.run(config)
    assert (
        report["networks"]["stepwise"]["nonzero"]
        < report["networks"]["dense"]["params"]
    )
