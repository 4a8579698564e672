"""Networks over time, and over other than images."""

import flax.linen as nn
import jax.numpy as jnp

from experiments.zoo.entry import linen


class Recurrent(nn.Module):
    """Two recurrent layers over time, the last state classified."""

    cell: type[nn.RNNCellBase] = nn.GRUCell
    width: int = 16
    classes: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.RNN(self.cell(self.width))(x)
        x = nn.RNN(self.cell(self.width))(x)
        return nn.Dense(self.classes)(x[:, -1])


class Temporal(nn.Module):
    """Dilated causal convolutions with residuals (Bai et al. 2018)."""

    width: int = 16
    depth: int = 3
    classes: int = 5

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (1,))(x)
        for i in range(self.depth):
            y = nn.relu(
                nn.Conv(self.width, (3,), kernel_dilation=2**i, padding="CAUSAL")(x)
            )
            x = x + nn.Conv(self.width, (3,), padding="CAUSAL")(y)
        return nn.Dense(self.classes)(x[:, -1])


class Volume(nn.Module):
    """3-D convolutions with group normalisation, flattened into a classifier."""

    width: int = 16
    groups: int = 4
    classes: int = 5

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.Conv(self.width, (3, 3, 3))(x)
            x = nn.gelu(nn.GroupNorm(self.groups)(x))
            x = nn.max_pool(x, (2, 2, 2), (2, 2, 2))
        return nn.Dense(self.classes)(x.reshape(x.shape[0], -1))


class Autoencoder(nn.Module):
    """A generator from a code: Dense, reshaped to a map, transposed convolutions."""

    code: int = 8
    width: int = 16

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(4 * 4 * self.width)(nn.Dense(self.code)(x)))
        x = x.reshape(x.shape[0], 4, 4, self.width)
        for _ in range(2):
            x = nn.leaky_relu(nn.ConvTranspose(self.width, (4, 4), (2, 2))(x))
        return jnp.tanh(nn.ConvTranspose(1, (3, 3))(x))


ENTRIES = (
    linen("gru", Recurrent(), (4, 6, 8), floor=0.93),
    linen("lstm", Recurrent(nn.OptimizedLSTMCell), (4, 6, 8), floor=0.93),
    linen("temporal", Temporal(), (4, 8, 6), floor=0.9),
    linen("volume", Volume(), (2, 8, 8, 8, 1), floor=0.9),
    linen("generator", Autoencoder(), (4, 6), floor=0.95),
)
