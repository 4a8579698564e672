"""Residual networks (He et al. 2015, 2016): three blocks, two kinds of shortcut."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.zoo.entry import linen
from experiments.zoo.layers import conv, conv_norm, head, identity, norm


class ResNet(nn.Module):
    """A ResNet for images.

    Attributes:
      block: "basic", "bottleneck" or "preactivation".
      blocks: number of blocks per stage; each stage after the first halves the image.
      width: channels of the first stage; each stage doubles them.
      pad: shortcut by strided slice and zero channels instead of a 1×1 convolution.
      deep_stem: 7×7 stride 2 and max pooling, for large images.
    """

    block: str = "basic"
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    pad: bool = False
    deep_stem: bool = True
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        if self.deep_stem:
            x = conv_norm(x, self.width, 7, 2)
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        else:
            x = conv_norm(x, self.width)
        block = {"basic": _basic, "bottleneck": _bottleneck}.get(self.block, _preact)
        shortcut = _padded if self.pad else _projected
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                x = block(x, self.width * 2**stage, stride, shortcut)
        if self.block == "preactivation":
            x = nn.relu(norm(x))
        return head(x, self.classes)


def _basic(x, width, stride, shortcut):
    y = conv_norm(x, width, 3, stride)
    y = conv_norm(y, width, act=identity)
    return nn.relu(y + shortcut(x, width, stride))


def _bottleneck(x, width, stride, shortcut):
    y = conv_norm(x, width, 1)
    y = conv_norm(y, width, 3, stride)
    y = conv_norm(y, 4 * width, 1, act=identity)
    return nn.relu(y + shortcut(x, 4 * width, stride))


def _preact(x, width, stride, shortcut):
    y = conv(nn.relu(norm(x)), width, 3, stride)
    y = conv(nn.relu(norm(y)), width)
    return y + shortcut(x, width, stride)


def _projected(x: jax.Array, width: int, stride: int) -> jax.Array:
    if stride == 1 and x.shape[-1] == width:
        return x
    return conv_norm(x, width, 1, stride, act=identity)


def _padded(x: jax.Array, width: int, stride: int) -> jax.Array:
    """Option A of He et al. 2015: no parameters."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, width - x.shape[-1])))


_SMALL = {"blocks": (1, 1), "width": 16, "deep_stem": False}
_IMAGES = (4, 16, 16, 3)

ENTRIES = (
    linen("resnet-basic", ResNet("basic", **_SMALL), _IMAGES, floor=0.93),
    linen("resnet-bottleneck", ResNet("bottleneck", **_SMALL), _IMAGES, floor=0.97),
    linen("resnet-preact", ResNet("preactivation", **_SMALL), _IMAGES, floor=0.94),
    linen("resnet-pad", ResNet("basic", **_SMALL, pad=True), _IMAGES, floor=0.92),
    linen("resnet18", ResNet(classes=1000), (2, 64, 64, 3), floor=0.92, slow=True),
    linen(
        "resnet50",
        ResNet("bottleneck", (3, 4, 6, 3), classes=1000),
        (2, 64, 64, 3),
        floor=0.98,
        slow=True,
    ),
)
