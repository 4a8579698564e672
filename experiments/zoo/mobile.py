"""Networks made for phones: depthwise, squeeze-and-excite, grouped with a shuffle."""

import flax.linen as nn
import jax

from experiments.zoo.entry import linen
from experiments.zoo.layers import conv, conv_norm, head, identity, squeeze_excite


class MobileNetV2(nn.Module):
    """Inverted residuals (Sandler et al. 2018); V3-like with gates and hard swish.

    Attributes:
      blocks: (expansion, channels, stride) of each block.
      excite: squeeze-and-excite and hard swish, as in V3 (Howard et al. 2019).
      multiplier: channels out of each depthwise filter bank per channel in.
    """

    blocks: tuple[tuple[int, int, int], ...]
    stem: int = 16
    last: int = 64
    excite: bool = False
    multiplier: int = 1
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        act = nn.hard_swish if self.excite else nn.relu6
        x = conv_norm(x, self.stem, 3, 2, act=act)
        for expansion, width, stride in self.blocks:
            y = x
            if expansion > 1:
                y = conv_norm(y, expansion * x.shape[-1], 1, act=act)
            inner = y.shape[-1]
            y = conv_norm(y, self.multiplier * inner, 3, stride, groups=inner, act=act)
            if self.excite:
                y = squeeze_excite(y)
            y = conv_norm(y, width, 1, act=identity)
            x = x + y if x.shape == y.shape else y
        return head(conv_norm(x, self.last, 1, act=act), self.classes)


class ShuffleNet(nn.Module):
    """Grouped 1×1 convolutions with a channel shuffle between (Zhang et al. 2018).

    Attributes:
      widths: channels of each unit; a unit that keeps them is residual, another halves
        the image.
      groups: of every 1×1 convolution.
    """

    widths: tuple[int, ...] = (24, 24, 48, 48)
    groups: int = 3
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        x = conv_norm(x, self.widths[0])
        for width in self.widths:
            same = width == x.shape[-1]
            y = conv_norm(x, width, 1, groups=self.groups)
            y = _shuffle(y, self.groups)
            y = conv_norm(y, width, 3, 1 if same else 2, groups=width, act=identity)
            y = conv_norm(y, width, 1, groups=self.groups, act=identity)
            x = nn.relu(x + y) if same else nn.relu(y)
        return head(x, self.classes)


class ShuffleNetV2(nn.Module):
    """Split, transform one half, concatenate, shuffle (Ma et al. 2018)."""

    width: int = 24
    blocks: int = 3
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        x = conv_norm(x, self.width)
        for _ in range(self.blocks):
            left, y = jax.numpy.split(x, 2, axis=-1)
            half = y.shape[-1]
            y = conv_norm(y, half, 1)
            y = conv_norm(y, half, 3, groups=half, act=identity)
            y = conv_norm(y, half, 1)
            x = _shuffle(jax.numpy.concatenate([left, y], axis=-1), 2)
        return head(conv_norm(x, 2 * self.width, 1), self.classes)


class ResNeXt(nn.Module):
    """Bottleneck blocks with a grouped 3×3 convolution (Xie et al. 2017)."""

    width: int = 32
    groups: int = 4
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        x = conv_norm(x, self.width)
        for _ in range(2):
            y = conv_norm(x, self.width, 1)
            y = conv_norm(y, self.width, groups=self.groups)
            x = nn.relu(x + conv_norm(y, self.width, 1, act=identity))
        return head(conv(x, self.width, bias=True), self.classes)


def _shuffle(x: jax.Array, groups: int) -> jax.Array:
    """Channel (g, i) goes to (i, g)."""
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return split.swapaxes(-1, -2).reshape(x.shape)


_BLOCKS = ((1, 16, 1), (4, 24, 2), (4, 24, 1))
_V2 = (
    (1, 16, 1),
    *((6, 24, 2), (6, 24, 1)),
    *((6, 32, 2), (6, 32, 1), (6, 32, 1)),
    *((6, 64, 2), (6, 64, 1), (6, 64, 1), (6, 64, 1)),
    *((6, 96, 1), (6, 96, 1), (6, 96, 1)),
    *((6, 160, 2), (6, 160, 1), (6, 160, 1), (6, 320, 1)),
)
_IMAGES = (4, 16, 16, 3)

ENTRIES = (
    linen("mobilenet-v2", MobileNetV2(_BLOCKS), _IMAGES, floor=0.97),
    linen("mobilenet-v3", MobileNetV2(_BLOCKS, excite=True), _IMAGES, floor=0.98),
    linen("multiplier-2", MobileNetV2(_BLOCKS, multiplier=2), _IMAGES, floor=0.98),
    linen("shufflenet", ShuffleNet(), _IMAGES, floor=0.96),
    linen("shufflenet-v2", ShuffleNetV2(), _IMAGES, floor=0.93),
    linen("resnext", ResNeXt(), _IMAGES, floor=0.95),
    linen(
        "mobilenet-v2-1.0",
        MobileNetV2(_V2, 32, 1280, classes=1000),
        (2, 64, 64, 3),
        floor=0.97,
        slow=True,
    ),
)
