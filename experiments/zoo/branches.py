"""Networks whose layers run side by side, or meet again across resolutions."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.zoo.entry import linen
from experiments.zoo.layers import conv, conv_norm, head


class Inception(nn.Module):
    """Four branches of different reach, concatenated (Szegedy et al. 2015)."""

    width: int = 16
    blocks: int = 2
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        x = conv_norm(x, self.width)
        for _ in range(self.blocks):
            pooled = nn.max_pool(x, (3, 3), (1, 1), "SAME")
            x = jnp.concatenate(
                [
                    conv_norm(x, self.width, 1),
                    conv_norm(conv_norm(x, self.width, 1), self.width),
                    conv_norm(conv_norm(x, self.width // 2, 1), self.width, 5),
                    conv_norm(pooled, self.width // 2, 1),
                ],
                axis=-1,
            )
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        return head(x, self.classes)


class SqueezeNet(nn.Module):
    """Fire modules (Iandola et al. 2016); the classifier is a convolution."""

    squeeze: tuple[int, ...] = (8, 8, 16)
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        x = nn.relu(conv(x, 16, bias=True))
        for width in self.squeeze:
            x = nn.relu(conv(x, width, 1, bias=True))
            near = nn.relu(conv(x, 4 * width, 1, bias=True))
            far = nn.relu(conv(x, 4 * width, 3, bias=True))
            x = jnp.concatenate([near, far], axis=-1)
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        return conv(x, self.classes, 1, bias=True).mean((1, 2))


class UNet(nn.Module):
    """Down, up, and a skip at each scale (Ronneberger et al. 2015).

    Attributes:
      upsample: "transpose" for a transposed convolution, else as in `jax.image.resize`.
      add: skips are added instead of concatenated.
    """

    widths: tuple[int, ...] = (8, 16, 32)
    upsample: str = "transpose"
    add: bool = False
    classes: int = 3

    @nn.compact
    def __call__(self, x):
        skips = []
        for width in self.widths[:-1]:
            x = conv_norm(conv_norm(x, width), width)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = conv_norm(x, self.widths[-1])
        for skip in reversed(skips):
            x = self._up(x, skip.shape[-1])
            x = x + skip if self.add else jnp.concatenate([skip, x], axis=-1)
            x = conv_norm(x, skip.shape[-1])
        return conv(x, self.classes, 1, bias=True)

    def _up(self, x: jax.Array, width: int) -> jax.Array:
        if self.upsample == "transpose":
            return nn.ConvTranspose(width, (2, 2), (2, 2))(x)
        batch, height, wide, channels = x.shape
        large = (batch, 2 * height, 2 * wide, channels)
        return conv_norm(jax.image.resize(x, large, self.upsample), width, 1)


class PixelShuffle(nn.Module):
    """Super-resolution by depth to space (Shi et al. 2016)."""

    width: int = 16
    scale: int = 2

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(conv(x, self.width, bias=True))
        x = nn.relu(_depth_to_space(conv(x, self.width * self.scale**2), self.scale))
        return conv(x, 3, bias=True)


class Highway(nn.Module):
    """Gated channels: half of a convolution gates the other (as in PixelCNN, GLU)."""

    width: int = 16
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        x = conv_norm(x, self.width)
        for _ in range(2):
            value, gate = jnp.split(conv(x, 2 * self.width, bias=True), 2, axis=-1)
            x = x + jnp.tanh(value) * nn.sigmoid(gate)
        x = nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(self.classes)(x.reshape(x.shape[0], -1))


class Shared(nn.Module):
    """Towers with the same weights, compared by their product (siamese)."""

    width: int = 16
    classes: int = 4

    @nn.compact
    def __call__(self, x):
        tower = nn.Sequential([nn.Dense(self.width), nn.relu, nn.Dense(self.width)])
        left, right = jnp.split(x, 2, axis=1)
        return nn.Dense(self.classes)(jnp.tanh(tower(left)) * jnp.tanh(tower(right)))


def _depth_to_space(x: jax.Array, scale: int) -> jax.Array:
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, scale, scale, channels // scale**2)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, scale * height, scale * width, -1)


_IMAGES = (4, 16, 16, 3)

ENTRIES = (
    linen("inception", Inception(), _IMAGES, floor=0.93),
    linen("squeezenet", SqueezeNet(), _IMAGES, floor=0.93),
    linen("unet-transpose", UNet(), _IMAGES, floor=0.91),
    linen("unet-nearest", UNet(upsample="nearest"), _IMAGES, floor=0.92),
    linen("unet-bilinear", UNet(upsample="bilinear", add=True), _IMAGES, floor=0.92),
    linen("pixel-shuffle", PixelShuffle(), _IMAGES, floor=0.83),
    linen("highway", Highway(), _IMAGES, floor=0.96),
    linen("siamese", Shared(), (4, 12), floor=0.86),
)
