"""VGG (Simonyan & Zisserman, 2015), plain and with batch norm.

Convolutions are 3×3 with stride 1; max pooling 2×2 ends each of five stages.

| layout | dense layers | parameters | MACs |
|---|---|---|---|
| `vgg16()`, 32×32×3 | 512, 512, 10 | 15,245,130 | 313.7 M |
| `vgg16_bn()`, 32×32×3 | 10 | 14,724,042 | 313.2 M |
| `vgg19_bn()`, 32×32×3 | 10 | 20,035,018 | 398.1 M |
| `imagenet(vgg16)`, 224×224×3 | 4096, 4096, 1000 | 138,357,544 | 15.47 G |
| `imagenet(vgg19_bn)`, 224×224×3 | 4096, 4096, 1000 | 143,672,744 | 19.63 G |

The two CIFAR layouts with batch norm have no bias beside it and no hidden dense layer,
as in Network Slimming (Liu et al., 2017).
"""

from collections.abc import Callable
from typing import Any

from experiments.models.chain import Chain, Conv, Pool

STAGE_WIDTHS = (64, 128, 256, 512, 512)


def vgg16(**fields: Any) -> Chain:
    """VGG-16 as published, without batch norm; `fields` are those of `Chain`."""
    return Chain(_layers(2, 2, 3, 3, 3), **{"hidden": (512, 512)} | fields)


def vgg16_bn(**fields: Any) -> Chain:
    """VGG-16 with batch norm; `fields` are those of `Chain`."""
    return Chain(_layers(2, 2, 3, 3, 3), **{"norm": True} | fields)


def vgg19_bn(**fields: Any) -> Chain:
    """VGG-19 with batch norm; `fields` are those of `Chain`."""
    return Chain(_layers(2, 2, 4, 4, 4), **{"norm": True} | fields)


def imagenet(network: Callable[..., Chain], **fields: Any) -> Chain:
    """One of the above in the layout for 224×224 images and 1000 classes."""
    return network(**{"hidden": (4096, 4096), "classes": 1000} | fields)


def _layers(*stages: int) -> tuple[Conv | Pool, ...]:
    return tuple(
        layer
        for width, convs in zip(STAGE_WIDTHS, stages, strict=True)
        for layer in (*[Conv(width)] * convs, Pool(padding="SAME"))
    )
