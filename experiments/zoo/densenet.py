"""DenseNet (Huang et al. 2017): every layer sees the concatenation of all before it."""

import flax.linen as nn
import jax.numpy as jnp

from experiments.zoo.entry import linen
from experiments.zoo.layers import conv, conv_norm, head, norm


class DenseNet(nn.Module):
    """A DenseNet-BC.

    Attributes:
      blocks: number of layers per dense block; a transition between two blocks halves
        the channels and the image.
      growth: channels that each layer adds.
      deep_stem: 7×7 stride 2 and max pooling, for large images.
    """

    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    deep_stem: bool = True
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        if self.deep_stem:
            x = conv_norm(x, 2 * self.growth, 7, 2)
            x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        else:
            x = conv(x, 2 * self.growth)
        for i, layers in enumerate(self.blocks):
            if i:
                x = conv(nn.relu(norm(x)), x.shape[-1] // 2, 1)
                x = nn.avg_pool(x, (2, 2), (2, 2))
            for _ in range(layers):
                y = conv(nn.relu(norm(x)), 4 * self.growth, 1)
                y = conv(nn.relu(norm(y)), self.growth)
                x = jnp.concatenate([x, y], axis=-1)
        return head(nn.relu(norm(x)), self.classes)


ENTRIES = (
    linen("densenet", DenseNet((2, 2), 8, False), (4, 16, 16, 3), floor=0.95),
    linen("densenet121", DenseNet(classes=1000), (2, 64, 64, 3), floor=0.98, slow=True),
)
