"""ZFNet (Zeiler & Fergus, 2014), without its response normalisation.

| layout | first two kernels | parameters | MACs |
|---|---|---|---|
| `zfnet()`, 32×32×3 | 5×5 with stride 2, 5×5 | 24,740,234 | 111.7 M |
| `zfnet_imagenet()`, 224×224×3 | 7×7, 5×5, both stride 2 | 62,357,608 | 1.17 G |

The layout for CIFAR (10 classes) has stride 2 in the stem only, 2×2 pooling, and the
same dense layers, which hold most of the parameters in both.
"""

from typing import Any

from experiments.models.chain import Chain, Conv, Pool

CIFAR = (
    *(Conv(96, 5, 2), Pool()),
    *(Conv(256, 5), Pool()),
    *(Conv(384), Conv(384), Conv(256), Pool()),
)
IMAGENET = (
    *(Conv(96, 7, 2, padding=1), Pool(3, "SAME")),
    *(Conv(256, 5, 2, padding=0), Pool(3, "SAME")),
    *(Conv(384), Conv(384), Conv(256), Pool(3)),
)


def zfnet(**fields: Any) -> Chain:
    """ZFNet for 32×32 images; `fields` are those of `Chain`."""
    return Chain(CIFAR, **{"hidden": (4096, 4096)} | fields)


def zfnet_imagenet(**fields: Any) -> Chain:
    """ZFNet for 224×224 images and 1000 classes; `fields` are those of `Chain`."""
    return Chain(IMAGENET, **{"hidden": (4096, 4096), "classes": 1000} | fields)
