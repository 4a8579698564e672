"""Networks that are one chain: convolutions, max pooling in between, dense layers.

AlexNet, ZFNet and VGG are tables of layers for `Chain`.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from experiments.models.heads import Head
from experiments.models.layers import BatchNorm
from experiments.models.pooling import max_pool
from experiments.models.standard import of_linen

_he = nn.initializers.he_normal()


def looks_linear(mirrored: bool) -> nn.initializers.Initializer:
    """Kernels with which a row of convolutions and ReLUs starts as a linear map.

        W = [[ V, −V],      with V as He et al. have it, so that
             [−V,  V]]      W · [ReLU(x), ReLU(−x)] = [V·x, −V·x]

    Balduzzi et al., *The shattered gradients problem* (2017). Images stay as different
    as they are on their way through many layers, so that VGG-16 learns from its first
    updates without batch norm.

    Args:
      mirrored: whether the inputs are such pairs; those of the first layer are not.
    """

    def init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        *_, inputs, outputs = shape
        rows = (inputs + 1) // 2 if mirrored else inputs
        kernel = _he(key, shape, dtype)[..., :rows, : (outputs + 1) // 2]
        if mirrored:
            kernel = jnp.concatenate([kernel, -kernel], axis=-2)
        kernel = jnp.concatenate([kernel, -kernel], axis=-1)
        return kernel[..., :inputs, :outputs]

    return init


class Conv(NamedTuple):
    """A convolution with ReLU; an integer `padding` goes on every side."""

    width: int
    kernel: int = 3
    stride: int = 1
    padding: str | int = "SAME"


class Pool(NamedTuple):
    """Max pooling with stride 2."""

    window: int = 2
    padding: str = "VALID"


class Chain(nn.Module):
    """Convolutions and max pooling in a row, then dense layers.

    Hidden dense layers see the flattened image, so its size is fixed; without any, the
    mean over pixels is classified.

    Returns logits, or, in training with auxiliary classifiers, (logits, tuple of their
    logits).

    Attributes:
      layers: `Conv` and `Pool`, in order.
      hidden: number of units of each hidden dense layer.
      classes: number of classes.
      width: multiplies every number of channels and units.
      widths: instead of `width`, the number of channels of each convolution, then the
        units of each hidden layer; `widths_of` reads them off a pruned network.
      norm: batch norm, without bias, after each convolution.
      dropout: rate after each hidden layer in training, in [0, 1); above 0 it needs
        `rngs={"dropout": key}`.
      aux_at: after which convolutions (1, 2, …) auxiliary classifiers sit.
    """

    layers: tuple[Conv | Pool, ...]
    hidden: tuple[int, ...] = ()
    classes: int = 10
    width: float = 1.0
    widths: tuple[int, ...] | None = None
    norm: bool = False
    dropout: float = 0.0
    aux_at: tuple[int, ...] = ()

    @nn.compact
    def __call__(self, x: Array, train: bool = False):
        convs = sum(isinstance(layer, Conv) for layer in self.layers)
        if any(not 1 <= depth <= convs for depth in self.aux_at):
            raise ValueError(f"aux_at must lie in 1 … {convs}, got {self.aux_at}")
        widths = self._widths()
        features, depth, aux = iter(widths), 0, []
        for layer in self.layers:
            if isinstance(layer, Pool):
                x = max_pool(x, layer.window, layer.padding)
                continue
            init = _he if self.norm else looks_linear(mirrored=depth > 0)
            x = self._convolve(x, next(features), layer, init, train)
            depth += 1
            if depth in self.aux_at and (train or self.is_initializing()):
                aux.append(Head(self.classes, name=f"aux_{depth}")(x))
        logits = self._classify(x, widths[convs:], train)
        return (logits, tuple(aux)) if train and self.aux_at else logits

    def _widths(self) -> tuple[int, ...]:
        full = [layer.width for layer in self.layers if isinstance(layer, Conv)]
        full += self.hidden
        if self.widths is None:
            return tuple(max(1, round(self.width * size)) for size in full)
        if len(self.widths) != len(full) or min(self.widths) < 1:
            raise ValueError(
                f"widths must be {len(full)} numbers of 1 or more (each convolution's, "
                f"then each hidden layer's), got {self.widths}"
            )
        return self.widths

    def _convolve(
        self,
        x: Array,
        width: int,
        layer: Conv,
        init: nn.initializers.Initializer,
        train: bool,
    ) -> Array:
        x = nn.Conv(
            width,
            (layer.kernel, layer.kernel),
            layer.stride,
            layer.padding,
            use_bias=not self.norm,
            kernel_init=init,
            conv_general_dilated=of_linen,
        )(x)
        return BatchNorm()(x, train) if self.norm else nn.relu(x)

    def _classify(self, x: Array, hidden: tuple[int, ...], train: bool) -> Array:
        if not x.size:
            raise ValueError(
                "the images are too small: pooling leaves no pixel of them"
            )
        x = x.reshape(len(x), -1) if hidden else jnp.mean(x, axis=(1, 2))
        for size in hidden:
            x = nn.relu(nn.Dense(size, kernel_init=_he)(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes)(x)


def widths_of(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """The `widths` of a `Chain`, from the shapes of its leaves.

    Args:
      shapes: path → shape, such as a plan's `widths`.

    Raises:
      ValueError: there is no convolution or no dense layer.
    """
    convs, dense = (_outputs(kind, shapes) for kind in ("Conv", "Dense"))
    if not (convs and dense):
        raise ValueError(f"no chain of convolutions and dense layers: {list(shapes)}")
    return (*convs, *dense[:-1])


def _outputs(kind: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    layer = re.compile(rf"params/{kind}_(\d+)/kernel")
    found = {
        int(m[1]): shape for p, shape in shapes.items() if (m := layer.fullmatch(p))
    }
    return tuple(found[i][-1] for i in sorted(found))
