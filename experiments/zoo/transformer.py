"""Attention and its rivals: ViT, ConvNeXt, MLP-Mixer, a language model."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from experiments.zoo.entry import linen
from experiments.zoo.layers import conv, head


class ViT(nn.Module):
    """Patches, a class token, pre-norm blocks (Dosovitskiy et al. 2021)."""

    width: int = 32
    depth: int = 2
    heads: int = 4
    patch: int = 4
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (self.patch,) * 2, self.patch, "VALID")(x)
        x = x.reshape(x.shape[0], -1, self.width)
        init = nn.initializers.normal(0.02)
        token = self.param("token", init, (1, 1, self.width))
        token = jnp.broadcast_to(token, (x.shape[0], 1, self.width))
        x = jnp.concatenate([token, x], axis=1)
        x = x + self.param("position_embedding", init, (1, *x.shape[1:]))
        for _ in range(self.depth):
            y = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(self.heads)(y, y)
            x = x + _mlp(nn.LayerNorm()(x), 4 * self.width)
        return nn.Dense(self.classes)(nn.LayerNorm()(x)[:, 0])


class ConvNeXt(nn.Module):
    """Depthwise 7×7, LayerNorm, a wide MLP, layer scale (Liu et al. 2022)."""

    widths: tuple[int, ...] = (16, 32)
    blocks: int = 1
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        for stage, width in enumerate(self.widths):
            size = 2 if stage else 4
            x = nn.LayerNorm()(conv(x, width, size, size, bias=True))
            for block in range(self.blocks):
                y = nn.LayerNorm()(conv(x, width, 7, groups=width, bias=True))
                name = f"scale_{stage}_{block}"
                scale = self.param(name, nn.initializers.ones, (width,))
                x = x + _mlp(y, 4 * width) * scale
        return head(nn.LayerNorm()(x), self.classes)


class Mixer(nn.Module):
    """An MLP over patches, then one over channels (Tolstikhin et al. 2021)."""

    width: int = 32
    depth: int = 2
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.width, (4, 4), 4)(x)
        x = x.reshape(x.shape[0], -1, self.width)
        for _ in range(self.depth):
            across = nn.LayerNorm()(x).swapaxes(1, 2)
            x = x + _mlp(across, 24).swapaxes(1, 2)
            x = x + _mlp(nn.LayerNorm()(x), 64)
        return nn.Dense(self.classes)(nn.LayerNorm()(x).mean(1))


class Language(nn.Module):
    """A causal decoder: grouped queries, rotary positions, RMS norm, gated MLP.

    The output uses the embedding again (tied weights).
    """

    width: int = 32
    depth: int = 2
    heads: int = 4
    shared: int = 2
    vocabulary: int = 20

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(self.vocabulary, self.width)
        x = embed(tokens)
        for _ in range(self.depth):
            x = x + self._attention(nn.RMSNorm()(x))
            y = nn.RMSNorm()(x)
            y = nn.silu(_linear(y, 2 * self.width)) * _linear(y, 2 * self.width)
            x = x + _linear(y, self.width)
        return embed.attend(nn.RMSNorm()(x))

    def _attention(self, x: jax.Array) -> jax.Array:
        size = self.width // self.heads
        kv_heads = self.heads // self.shared
        query = nn.DenseGeneral((self.heads, size), use_bias=False)(x)
        key = nn.DenseGeneral((kv_heads, size), use_bias=False)(x)
        value = nn.DenseGeneral((kv_heads, size), use_bias=False)(x)
        query, key = _rotate(query), _rotate(key)
        query = query.reshape(*query.shape[:2], kv_heads, self.shared, size)
        scores = jnp.einsum("btkgd,bskd->bkgts", query, key) / size**0.5
        causal = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        weights = nn.softmax(jnp.where(causal, scores, -1e9))
        mixed = jnp.einsum("bkgts,bskd->btkgd", weights, value)
        return _linear(mixed.reshape(*mixed.shape[:2], -1), self.width)


class Scanned(nn.Module):
    """The same pre-norm MLP block, stacked along a leading axis by `nn.scan`."""

    width: int = 16
    depth: int = 3
    classes: int = 10

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x)
        stack = nn.scan(
            _Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=self.depth,
        )
        x, _ = stack(4 * self.width)(x, None)
        return nn.Dense(self.classes)(x)


class _Block(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x, _):
        return x + _mlp(nn.LayerNorm()(x), self.hidden), None


def _linear(x: jax.Array, width: int) -> jax.Array:
    return nn.Dense(width, use_bias=False)(x)


def _mlp(x: jax.Array, hidden: int) -> jax.Array:
    return nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(hidden)(x)))


def _rotate(x: jax.Array) -> jax.Array:
    """Rotary positions (Su et al. 2021): halves of a head turn together."""
    _, length, _, size = x.shape
    rate = 10_000.0 ** -(jnp.arange(size // 2) / (size // 2))
    angle = jnp.arange(length)[:, None, None] * rate
    left, right = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([left * cos - right * sin, left * sin + right * cos], -1)


_IMAGES = (4, 16, 16, 3)

ENTRIES = (
    linen("vit", ViT(), _IMAGES, floor=0.97),
    linen("convnext", ConvNeXt(), _IMAGES, floor=0.94),
    linen("mixer", Mixer(), _IMAGES, floor=0.89),
    linen("language", Language(), (2, 6), floor=0.96, tokens=20),
    linen("scanned", Scanned(), (4, 12), floor=0.86),
)
