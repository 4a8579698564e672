"""AlexNet in one tower (Krizhevsky, 2014): no groups, no response normalisation.

| layout | stem | parameters | MACs |
|---|---|---|---|
| `alexnet()`, 32×32×3 | 3×3, stride 2 | 23,272,266 | 62.7 M |
| `alexnet_imagenet()`, 224×224×3 | 11×11, stride 4 | 61,100,840 | 714.2 M |

The layout for CIFAR (10 classes) has 3×3 kernels and 2×2 pooling throughout, and the
same dense layers, which hold nine tenths of the parameters in both.
"""

from typing import Any

from experiments.models.chain import Chain, Conv, Pool

CIFAR = (
    *(Conv(64, stride=2), Pool()),
    *(Conv(192), Pool()),
    *(Conv(384), Conv(256), Conv(256), Pool()),
)
IMAGENET = (
    *(Conv(64, 11, 4, padding=2), Pool(3)),
    *(Conv(192, 5), Pool(3)),
    *(Conv(384), Conv(256), Conv(256), Pool(3)),
)


def alexnet(**fields: Any) -> Chain:
    """AlexNet for 32×32 images; `fields` are those of `Chain`."""
    return Chain(CIFAR, **{"hidden": (4096, 4096)} | fields)


def alexnet_imagenet(**fields: Any) -> Chain:
    """AlexNet for 224×224 images and 1000 classes; `fields` are those of `Chain`."""
    return Chain(IMAGENET, **{"hidden": (4096, 4096), "classes": 1000} | fields)
