"""MobileNetV1 (Howard et al., 2017), for CIFAR-10 and for ImageNet.

Stem, then thirteen blocks of depthwise 3×3 and pointwise 1×1 convolution, each followed
by batch norm and ReLU, then the mean over pixels and a dense layer.

| layout | stem | parameters | MACs |
|---|---|---|---|
| `MobileNetV1()`, 32×32×3, 10 classes | stride 1 | 3,217,226 | 46.35 M |
| `MobileNetV1(width=0.5)`, the same | stride 1 | 823,722 | 12.17 M |
| `MobileNetV1.imagenet()`, 224×224×3 | stride 2 | 4,231,976 | 569 M |
"""

from collections.abc import Mapping
from typing import Any, Self

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from experiments.models.heads import Head
from experiments.models.layers import BatchNorm, Conv, Depthwise, Pointwise

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


class Block(nn.Module):
    """Depthwise 3×3, then pointwise 1×1; batch norm and ReLU after each."""

    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = BatchNorm()(Depthwise(stride=self.stride)(x), train)
        return BatchNorm()(Pointwise(self.features)(x), train)


class MobileNetV1(nn.Module):
    """MobileNetV1.

    Returns logits, or, in training with auxiliary classifiers, (logits, tuple of their
    logits).

    Attributes:
      classes: number of classes.
      width: multiplies every number of channels.
      widths: instead of `width`, the number of channels of the stem and of each of the
        thirteen blocks; `widths_of` reads them off a pruned network.
      stem_stride: 1 for 32×32 images, 2 for 224×224.
      aux_at: after which blocks (1 to 13) auxiliary classifiers sit.
    """

    classes: int = 10
    width: float = 1.0
    widths: tuple[int, ...] | None = None
    stem_stride: int = 1
    aux_at: tuple[int, ...] = ()

    @classmethod
    def imagenet(cls, **fields: Any) -> Self:
        """The layout for 224×224 images and 1000 classes."""
        return cls(**{"classes": 1000, "stem_stride": 2} | fields)

    @nn.compact
    def __call__(self, x: Array, train: bool = False):
        stem, *features = self._channels()
        x = BatchNorm()(Conv(stem, stride=self.stem_stride)(x), train)
        aux = []
        for i, (width, stride) in enumerate(zip(features, STRIDES, strict=True)):
            x = Block(width, stride, name=f"Block_{i}")(x, train)
            if i + 1 in self.aux_at and (train or self.is_initializing()):
                aux.append(Head(self.classes, name=f"aux_{i + 1}")(x))
        logits = nn.Dense(self.classes)(jnp.mean(x, axis=(1, 2)))
        return (logits, tuple(aux)) if train and self.aux_at else logits

    def _channels(self) -> tuple[int, ...]:
        if any(not 1 <= depth <= len(STRIDES) for depth in self.aux_at):
            raise ValueError(f"aux_at must lie in 1 … 13, got {self.aux_at}")
        if self.widths is None:
            return tuple(max(1, round(self.width * full)) for full in WIDTHS)
        if len(self.widths) != len(WIDTHS) or min(self.widths) < 1:
            raise ValueError(
                f"widths must be {len(WIDTHS)} numbers of 1 or more (the stem's and "
                f"each block's), got {self.widths}"
            )
        return self.widths


def widths_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The `widths` of a MobileNetV1, from the shapes of its leaves.

    Args:
      shapes: path → shape, such as a plan's `widths`.

    Raises:
      ValueError: a kernel is missing.
    """
    kernels = ["params/Conv_0/kernel"]
    kernels += [f"params/Block_{i}/Pointwise_0/kernel" for i in range(len(STRIDES))]
    missing = [path for path in kernels if path not in shapes]
    if missing:
        raise ValueError(f"no MobileNetV1: {missing[0]} is missing")
    return tuple(shapes[path][-1] for path in kernels)
