"""Haiku's own networks."""

import haiku as hk
import jax

from experiments.zoo.entry import Entry, Model, example, filled

_SMALL = {
    "blocks_per_group": (1, 1, 1, 1),
    "channels_per_group": (8, 8, 16, 16),
    "bottleneck": False,
    "use_projection": (True, True, True, True),
    "num_classes": 10,
}


def _entry(
    name: str,
    network: type[hk.Module],
    shape: tuple[int, ...],
    *,
    floor: float,
    slow: bool = False,
    **fields,
) -> Entry:
    def build() -> Model:
        @hk.transform_with_state
        def net(x: jax.Array, is_training: bool) -> jax.Array:
            return network(**fields)(x, is_training)

        def init(x):  # training creates the running averages
            params, state = net.init(jax.random.key(0), x, True)
            return {"params": params, "state": state}

        def fn(variables, x):
            params, state = variables["params"], variables["state"]
            return net.apply(params, state, None, x, False)[0]

        def train(variables, x):
            params, state = variables["params"], variables["state"]
            outputs, state = net.apply(params, state, None, x, True)
            return outputs, {"state": state}

        x = example(shape)
        return Model(fn, filled(jax.eval_shape(init, x)), x, train)

    return Entry(name, "haiku", floor, build, slow)


_PHOTOS = (2, 64, 64, 3)
ENTRIES = (
    _entry(
        "haiku-mobilenet",
        hk.nets.MobileNetV1,
        (4, 16, 16, 3),
        floor=0.87,
        strides=(1, 2, 1),
        channels=(16, 24, 24),
        num_classes=10,
    ),
    _entry(
        "haiku-resnet-v2",
        hk.nets.ResNet,
        (4, 32, 32, 3),
        floor=0.84,
        resnet_v2=True,
        **_SMALL,
    ),
    _entry(
        "haiku-mobilenet-1.0",
        hk.nets.MobileNetV1,
        _PHOTOS,
        floor=0.96,
        slow=True,
    ),
    _entry(
        "haiku-resnet18",
        hk.nets.ResNet18,
        _PHOTOS,
        floor=0.93,
        slow=True,
        num_classes=1000,
    ),
    _entry(
        "haiku-resnet18-v2",
        hk.nets.ResNet18,
        _PHOTOS,
        floor=0.92,
        slow=True,
        num_classes=1000,
        resnet_v2=True,
    ),
)
