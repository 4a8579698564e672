"""Keras's own networks, on its JAX backend."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

from collections.abc import Callable

import jax
import keras

from experiments.zoo.entry import Entry, Model, example, filled


def _entry(
    name: str,
    network: Callable[..., keras.Model],
    *,
    floor: float,
    size: int = 64,
    **fields,
) -> Entry:
    def build() -> Model:
        shape = (size, size, 3)
        fields.update(weights=None, classifier_activation=None)  # logits
        model = network(input_shape=shape, **fields)

        def fn(variables, x):
            return model.stateless_call(*variables, x, training=False)[0]

        variables = [
            _random(model.trainable_variables),
            _random(model.non_trainable_variables),
        ]
        return Model(fn, variables, example((2, size, size, 3)))

    return Entry(name, "keras", floor, build, slow=True)


def _random(variables: list) -> list:
    """A list like Keras's, filled by the names that it does not carry."""
    named = {
        f"{i:05}/{v.path}": jax.ShapeDtypeStruct(v.shape, v.dtype)
        for i, v in enumerate(variables)
    }
    return list(filled(named).values())


_apps = keras.applications
ENTRIES = (
    _entry(
        "keras-mobilenet",
        _apps.MobileNet,
        floor=0.9,
        size=32,
        alpha=0.25,
        classes=10,
    ),
    _entry("keras-mobilenet-v3", _apps.MobileNetV3Small, floor=0.9),
    _entry("keras-vgg16", _apps.VGG16, floor=0.9),
    _entry("keras-resnet50-v2", _apps.ResNet50V2, floor=0.9),
    _entry("keras-densenet121", _apps.DenseNet121, floor=0.9),
    _entry("keras-inception-v3", _apps.InceptionV3, floor=0.9, size=96),
    _entry("keras-xception", _apps.Xception, floor=0.9, size=96),
    _entry("keras-efficientnet-b0", _apps.EfficientNetB0, floor=0.9),
    _entry("keras-convnext-tiny", _apps.ConvNeXtTiny, floor=0.9),
)
