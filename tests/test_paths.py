import jax.numpy as jnp
import pytest
from flax import nnx

from jaxprune import paths

TREE = {
    "Conv_0": {"kernel": jnp.ones((3, 3, 4, 8)), "bias": jnp.ones(8)},
    "BatchNorm_0": {"scale": jnp.ones(8), "bias": jnp.ones(8)},
}


def test_select_marks_exactly_what_matches():
    assert paths.select(TREE, paths.kernels) == {
        "Conv_0": {"kernel": True, "bias": False},
        "BatchNorm_0": {"scale": False, "bias": False},
    }
    assert paths.select(TREE, paths.batch_norm_factors) == {
        "Conv_0": {"kernel": False, "bias": False},
        "BatchNorm_0": {"scale": True, "bias": True},
    }


def test_select_complains_when_nothing_matches():
    with pytest.raises(
        ValueError, match=r"matching\('nowhere'\) matches none of the 4"
    ):
        paths.select(TREE, paths.matching("nowhere"))
    with pytest.raises(ValueError, match="the tree is empty"):
        paths.select({}, paths.kernels)


def test_boxes_do_not_show_in_the_path():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.bn1 = nnx.BatchNorm(4, rngs=rngs)

    params = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    assert sum(nnx.to_pure_dict(paths.select(params, paths.kernels))["conv"].values())
    factors = nnx.to_pure_dict(paths.select(params, paths.batch_norm_factors))
    assert factors["bn1"] == {"scale": True, "bias": True}
    assert factors["conv"] == {"kernel": False, "bias": False}


@pytest.mark.parametrize(
    "module", ["BatchNorm_3", "batch_norm", "bn", "bn2", "conv_bn"]
)
def test_batch_norm_is_recognised(module):
    assert paths.batch_norm_factors(f"net/{module}/scale", None)
    assert not paths.batch_norm_factors(f"net/{module}/mean", None)


@pytest.mark.parametrize("module", ["LayerNorm_0", "Dense_0", "abnormal", "subnet"])
def test_other_modules_are_not(module):
    assert not paths.batch_norm_factors(f"net/{module}/scale", None)
