"""The experiments of the papers' networks: their presets ask for what is possible."""

import jax
import numpy as np
import pytest

import jaxprune as jp
from experiments import (
    branches,
    cifar10_alexnet,
    cifar10_mobilenet,
    cifar10_vgg16,
    cifar10_vgg19_bn,
    cifar10_zfnet,
)
from experiments.data import Dataset
from experiments.experiment import Experiment
from experiments.models.alexnet import alexnet_imagenet
from experiments.models.chain import Conv
from experiments.models.mobilenet import MobileNetV1
from experiments.models.vgg import imagenet, vgg16
from experiments.models.zfnet import zfnet_imagenet

CHAINS = {
    cifar10_vgg16: cifar10_vgg16.VGG16,
    cifar10_alexnet: cifar10_alexnet.ALEXNET,
    cifar10_zfnet: cifar10_zfnet.ZFNET,
    cifar10_vgg19_bn: cifar10_vgg19_bn.VGG19_BN,
}
ALL = {**CHAINS, cifar10_mobilenet: cifar10_mobilenet.MOBILENET}
IMAGES = Dataset(
    "digits",
    *(np.zeros((5000, 32, 32, 3), np.uint8), np.zeros(5000, np.int32)),
    *(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int32)),
    tuple("0123456789"),
    "nothing to see",
)


def experiment(module, preset):
    return Experiment(module.PRESETS[preset].config, ALL[module], IMAGES, None, None)


@pytest.mark.parametrize("preset", ["smoke", "quick", "full"])
@pytest.mark.parametrize("module", ALL, ids=lambda m: m.__name__.split(".")[-1])
def test_presets_can_be_met(module, preset):
    branches.check(experiment(module, preset))


@pytest.mark.parametrize("module", list(ALL), ids=lambda m: m.__name__.split(".")[-1])
def test_papers_ratios_are_those_asked_for(module):
    for paper in module.EXPECTED:
        for preset in ("quick", "full"):
            config = module.PRESETS[preset].config
            assert paper.method in config.methods
            by = "ratio" if paper.method == "stepwise" else "params_ratio"
            assert getattr(config, by) == paper.params


@pytest.mark.parametrize("preset", ["smoke", "quick", "full"])
@pytest.mark.parametrize("ratio", [11.7, 15.0, 16.6])
def test_as_many_parameters_stay_as_the_ratio_says(preset, ratio):
    tried = experiment(cifar10_vgg16, preset)
    params = tried.shapes["params"]
    prunable = tried.architecture.prunable
    leaves = jax.tree.leaves_with_path(params)
    size = sum(x.size for p, x in leaves if prunable(jp.paths.name(p), x))
    zeros = round(branches.sparsity_for(ratio, params, prunable) * size)
    total = jp.parameters(params)
    assert total - zeros == round(total / ratio)


@pytest.mark.parametrize("module", CHAINS, ids=lambda m: m.__name__.split(".")[-1])
def test_depth_is_the_number_of_convolutions(module):
    layers = CHAINS[module].build().layers
    assert CHAINS[module].depth == sum(isinstance(layer, Conv) for layer in layers)


@pytest.mark.parametrize(
    ("build", "size", "depth"),
    [
        *((a.build, 32, a.depth) for a in ALL.values()),
        (MobileNetV1.imagenet, 224, 13),
        (alexnet_imagenet, 224, 5),
        (zfnet_imagenet, 224, 5),
        (lambda **fields: imagenet(vgg16, **fields), 224, 13),
    ],
)
def test_heads_sit_at_any_depth_of_any_network(build, size, depth):
    model = build(aux_at=(1, depth), width=0.1)
    image = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)

    def train(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    (logits, aux), _ = jax.eval_shape(train, variables, image)
    assert [x.shape for x in aux] == [logits.shape] * 2
