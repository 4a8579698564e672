"""No overhead: the flops are those of the network written by hand at small widths."""

import flax.linen as nn
import jax
import pytest
from coupled import case, close, images, init

import jaxprune as jp


class MobileNet(nn.Module):
    """A stem and two depthwise-separable units."""

    widths: tuple[int, ...] = (8, 12, 16)

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate(self.widths):
            if i:
                n = x.shape[-1]
                x = nn.Conv(n, (3, 3), i, feature_group_count=n, use_bias=False)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            x = nn.Conv(width, (1, 1) if i else (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        return nn.Dense(5)(x.mean((1, 2)))


class VGG(nn.Module):
    """Convolutions, pooling, flattening, dense layers."""

    widths: tuple[int, ...] = (8, 12, 16)

    @nn.compact
    def __call__(self, x):
        for width in self.widths[:2]:
            x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(self.widths[2])(x.reshape(len(x), -1)))
        return nn.Dense(5)(x)


def kernels(module):
    if module is MobileNet:
        return "Conv_0", "Conv_2", "Conv_4"
    return "Conv_0", "Conv_1", "Dense_0"


@pytest.mark.parametrize("module", [MobileNet, VGG])
def test_flops_and_parameters_equal_the_hand_written(module):
    x = images(2, 8, 8, 3)
    result = case(module().apply, init(module(), x), x)
    params = result.small["params"]
    by_hand = module(tuple(params[k]["kernel"].shape[-1] for k in kernels(module)))

    def compiled(fn):
        return jax.jit(fn).lower(result.small, x).compile()

    ours, theirs = compiled(result.fn), compiled(by_hand.apply)
    assert ours.cost_analysis()["flops"] == theirs.cost_analysis()["flops"]
    close(ours(result.small, x), theirs(result.small, x))
    close(ours(result.small, x), module().apply(result.dense, x))
    macs = jp.macs(result.fn, result.small, x)
    assert macs == jp.macs(by_hand.apply, result.small, x)
    kept = result.plan.to_keep(result.coupling)
    assert macs == result.coupling.macs(kept)
