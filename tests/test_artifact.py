import errno
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune import Plan, artifact
from jaxprune.artifact import ArtifactError, gaps


def pruned(shape, density, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random(shape) < density, rng.normal(size=shape), 0)
    return jnp.asarray(values, dtype)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "network.safetensors"


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        assert x.tobytes() == y.tobytes()


@given(
    st.lists(st.booleans(), max_size=300) | st.integers(0, 3000).map(lambda n: [0] * n)
)
@settings(max_examples=150)
def test_masks_come_back(bits):
    kept = np.array(bits, bool)
    code, low_bits = gaps.encode(kept)
    assert len(code) <= len(bits) // 8 + 2
    count = np.count_nonzero(kept)
    assert np.array_equal(gaps.decode(code, low_bits, count, kept.size), kept)


@pytest.mark.parametrize("density", [0.001, 0.01, 0.06, 0.18, 0.5, 0.9])
def test_code_is_close_to_the_entropy(density):
    kept = np.random.default_rng(0).random(200_000) < density
    code, _ = gaps.encode(kept)
    slack = 1.04 if density < 0.5 else 1 / gaps.entropy_bytes(kept) * 25_000 + 0.01
    assert len(code) <= slack * gaps.entropy_bytes(kept)


@pytest.mark.parametrize("ratio", [5.6, 16.6])
def test_size_is_within_five_percent_of_the_bound(file, ratio):
    layers = {
        f"Dense_{i}": {"kernel": pruned((256, 256), 1 / ratio, seed=i)}
        for i in range(6)
    }
    variables = {"params": layers | {"bias": jnp.ones(256)}}
    size = artifact.save(file, variables, metadata={"accuracy": 0.9})
    assert size == file.stat().st_size
    assert size <= 1.05 * artifact.bound(variables)
    assert_same(artifact.load(file).variables, variables)


def test_every_dtype_and_shape_comes_back_bit_for_bit(file):
    special = np.array([0.0, -0.0, np.nan, np.inf, 1e-45, -1.0], np.float32)
    dtypes = "float32 float16 bfloat16 float8_e4m3fn int8 uint16 int32 bool complex64"
    variables = {
        name: {
            "sparse": pruned((40, 30), 0.05, name),
            "dense": pruned((3, 4), 1.0, name),
            "zeros": jnp.zeros((50,), name),
        }
        for name in dtypes.split()
    }
    variables |= {
        "double": {"x": np.arange(3.0)},
        "special": {"x": special, "sparse": np.pad(special, 100)},
        "shapes": {"scalar": np.float32(3), "empty": np.zeros((0, 4))},
        "layers": {0: np.ones(2), 1: {}},
        "strided": {"x": np.arange(12.0).reshape(3, 4).T},
        "nothing": {},
    }
    artifact.save(file, variables)
    assert_same(artifact.load(file).variables, variables)


def test_plan_and_metadata_come_back(file):
    plan = Plan({"w": (4, 6)}, {"w": {1: (0, 3)}})
    metadata = {"classes": ["cat", "dog"], "accuracy": 0.93, "made by": {"jax": "x"}}
    artifact.save(file, {"w": np.ones((4, 4))}, plan=plan, metadata=metadata)
    found = artifact.load(file)
    assert found.plan.to_json() == plan.to_json()
    assert found.metadata == metadata
    artifact.save(file, {"w": np.ones((4, 4))})
    assert artifact.load(file).plan is None


def test_other_readers_understand_dense_leaves(file):
    artifact.save(file, {"params": {"bias": np.arange(1, 4, dtype=np.float32)}})
    assert safetensors.numpy.load_file(file)["params/bias"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("length", [0, 5, 60, 400, -1])
def test_truncated(file, length):
    artifact.save(file, {"w": pruned((30, 30), 0.2)})
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ArtifactError, match=r"is truncated|is empty") as caught:
        artifact.load(file)
    assert "\n" not in str(caught.value)


def test_any_flipped_bit_is_noticed(file):
    variables = {"w": pruned((8, 8), 0.2), "b": jnp.ones(3)}
    artifact.save(file, variables, metadata={"accuracy": 0.5})
    content = file.read_bytes()
    for position in range(0, len(content), 3):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        file.write_bytes(flipped)
        with pytest.raises(ArtifactError, match="network"):
            artifact.load(file)


def test_foreign_files(file):
    safetensors.numpy.save_file({"w": np.ones(3)}, file)
    with pytest.raises(ArtifactError, match="has format 'none', expected"):
        artifact.load(file)
    file.write_text("not tensors")
    with pytest.raises(ArtifactError, match="not a safetensors file"):
        artifact.load(file)
    with pytest.raises(ArtifactError, match="is a folder"):
        artifact.load(file.parent)
    with pytest.raises(FileNotFoundError):
        artifact.load(file.parent / "nothing")


def test_consistent_checksum_but_nonsense_inside(file, monkeypatch):
    encode = gaps.encode

    def nonsense(kept):
        code, low_bits = encode(kept)
        return np.zeros_like(code), low_bits

    monkeypatch.setattr(gaps, "encode", nonsense)
    artifact.save(file, {"w": pruned((30, 30), 0.2)})
    with pytest.raises(ArtifactError, match="contradicts itself: a mask keeps"):
        artifact.load(file)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(file, monkeypatch, step):
    artifact.save(file, {"w": np.ones(3)})

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match=r"cannot write .*network.*No space left"):
        artifact.save(file, {"w": np.zeros(3)})
    assert artifact.load(file).variables["w"].tolist() == [1, 1, 1]
    assert [p.name for p in file.parent.iterdir()] == [file.name]


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(OSError, match="cannot write"):
        artifact.save(tmp_path / "missing" / "network", {"w": np.ones(3)})


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ([np.ones(3)], "must be nested mappings, got list"),
        ({"a": {"b": 3}}, "'b' holds int, not an array"),
        ({"a": {None: np.ones(3)}}, "a key must be text or an integer"),
        ({"a/b": np.ones(1), "a": {"b": np.ones(1)}}, "the same path"),
    ],
)
def test_variables_that_cannot_be_stored(file, variables, message):
    with pytest.raises(ValueError, match=message):
        artifact.save(file, variables)
    assert not file.exists()


def test_random_keys_are_refused(file):
    with pytest.raises(ValueError, match="not an array"):
        artifact.save(file, {"key": jax.random.key(0)})


def test_functions_are_stored_for_any_batch(tmp_path):
    pytest.importorskip("flatbuffers")
    fn = jax.jit(lambda v, x: jax.nn.relu(x @ v["w"]))
    variables = {"w": pruned((5, 3), 0.5)}
    exported = artifact.export_function(fn, variables, jnp.ones((2, 5)))
    path = tmp_path / "function"
    assert artifact.save_function(path, exported) == path.stat().st_size
    back = artifact.load_function(path)
    x = jnp.arange(35.0).reshape(7, 5)
    np.testing.assert_array_equal(back(variables, x), fn(variables, x))


def test_functions_that_fix_their_batch(tmp_path):
    def fixed(v, x):
        return v["w"] * x / int(x.shape[0])

    variables = {"w": jnp.ones(5)}
    exported = artifact.export_function(fixed, variables, jnp.ones((2, 5)))
    assert exported.in_avals[1].shape == (2, 5)


def test_damaged_functions(tmp_path):
    pytest.importorskip("flatbuffers")
    path = tmp_path / "function"
    exported = artifact.export_function(lambda v, x: x, {}, jnp.ones((2, 5)))
    artifact.save_function(path, exported)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match="truncated or was changed"):
        artifact.load_function(path)
    path.write_bytes(b"x" + content)
    with pytest.raises(ArtifactError, match="not a jaxprune function"):
        artifact.load_function(path)
