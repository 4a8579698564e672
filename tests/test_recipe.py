"""Augmentation, losses and the optimizer of the experiments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import augment, losses, optimizers

IMAGES = np.arange(2 * 5 * 5).reshape(2, 5, 5, 1).astype(np.uint8)


def test_a_crop_is_a_window_of_the_reflected_image():
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    cropped = np.asarray(augment.random_crop(jax.random.key(0), IMAGES, 2))
    for image, out in zip(padded, cropped, strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(image[..., 0], (5, 5))
        assert any(np.array_equal(w, out[..., 0]) for w in windows.reshape(-1, 5, 5))


def test_a_flip_is_the_image_or_its_mirror():
    many = np.repeat(IMAGES[:1], 64, 0)
    flipped = np.asarray(augment.random_flip(jax.random.key(0), many))
    mirrored = (flipped == many[:, :, ::-1]).all((1, 2, 3))
    same = (flipped == many).all((1, 2, 3))
    assert (mirrored | same).all()
    assert 16 < mirrored.sum() < 48
    assert augment.can_flip("cifar10")
    assert not augment.can_flip("digits")


def test_resize_keeps_a_plain_image_plain():
    plain = jnp.full((1, 6, 6, 3), 0.7)
    np.testing.assert_allclose(
        augment.resize(plain, 4), np.full((1, 4, 4, 3), 0.7), 1e-5
    )
    assert augment.resize(plain, 6) is plain


def test_normalised_pixels():
    by = augment.Normalisation(np.float32([0.5]), np.float32([0.25]))
    pixels = np.uint8([0, 255]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(augment.normalise(pixels, by).ravel(), [-2, 2])


def test_weights_of_heads():
    assert losses.head_weights((1, 7, 13), 14) == (0.01, 0.25, (13 / 14) ** 2)


def test_the_loss_adds_the_heads():
    logits, aux = jnp.array([[2.0, 0.0, 1.0]]), jnp.array([[0.0, 1.0, 0.0]])
    labels = jnp.array([0])
    plain = losses.classification()
    both = losses.classification(heads=(0.25,))
    expected = plain(logits, labels) + 0.25 * plain(aux, labels)
    np.testing.assert_allclose(both((logits, (aux,)), labels), expected)
    targets = np.float32([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3]])
    by_hand = -np.sum(targets * jax.nn.log_softmax(logits))
    np.testing.assert_allclose(plain(logits, labels), by_hand, rtol=1e-6)
    with pytest.raises(ValueError, match="1 auxiliary classifiers but 0 weights"):
        plain((logits, (aux,)), labels)
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\), got 1"):
        losses.classification(1)


def test_one_cycle():
    schedule = optimizers.one_cycle(0.4, 100)
    rates = [float(schedule(step)) for step in (0, 10, 20, 60, 100, 120)]
    np.testing.assert_allclose(rates, [0.02, 0.21, 0.4, 0.202, 0.004, 0.004], 1e-5)
    with pytest.raises(ValueError, match="1 step or more, got 0"):
        optimizers.one_cycle(0.4, 0)


def test_decay_spares_batch_norm_and_biases():
    params = {
        "Conv_0": {"kernel": jnp.ones((1, 1, 2, 2)), "bias": jnp.ones(2)},
        "BatchNorm_0": {"scale": jnp.ones(2), "bias": jnp.ones(2)},
    }
    tx = optimizers.sgd(1.0, momentum=0.0, weight_decay=0.1)
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    moved = jax.tree.map(lambda u: bool(jnp.any(u != 0)), updates)
    assert moved == {
        "Conv_0": {"kernel": True, "bias": False},
        "BatchNorm_0": {"scale": False, "bias": False},
    }
