"""AlexNet, ZFNet, VGG: the layouts they claim, heads, rebuilding from widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from experiments.coverage import quick_compilation
from experiments.models import vgg
from experiments.models.alexnet import alexnet, alexnet_imagenet
from experiments.models.chain import Chain, Conv, Pool, looks_linear, widths_of
from experiments.models.heads import drop_heads
from experiments.models.zfnet import zfnet, zfnet_imagenet
from experiments.zoo.entry import example, filled
from jaxprune import cost, paths

LAYOUTS = {  # model, image size, parameters, MACs
    "vgg16": (vgg.vgg16(), 32, 15_245_130, 313.7e6),
    "vgg16_bn": (vgg.vgg16_bn(), 32, 14_724_042, 313.2e6),
    "vgg19_bn": (vgg.vgg19_bn(), 32, 20_035_018, 398.1e6),
    "alexnet": (alexnet(), 32, 23_272_266, 62.7e6),
    "zfnet": (zfnet(), 32, 24_740_234, 111.7e6),
    "vgg16-imagenet": (vgg.imagenet(vgg.vgg16), 224, 138_357_544, 15.47e9),
    "vgg19_bn-imagenet": (vgg.imagenet(vgg.vgg19_bn), 224, 143_672_744, 19.63e9),
    "alexnet-imagenet": (alexnet_imagenet(), 224, 61_100_840, 714.2e6),
    "zfnet-imagenet": (zfnet_imagenet(), 224, 62_357_608, 1.17e9),
}
TINY = Chain(
    (Conv(6), Pool(), Conv(8), Pool()), hidden=(12,), classes=5, norm=True, aux_at=(1,)
)


def abstract(model, size, batch=1):
    image = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image), image


@pytest.mark.parametrize("name", LAYOUTS)
def test_parameters_and_macs(name):
    model, size, parameters, macs = LAYOUTS[name]
    variables, image = abstract(model, size)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters
    assert cost.macs(model.apply, variables, image) == pytest.approx(macs, rel=1e-2)


def test_zfnet_is_within_a_percent_of_the_published_count():
    assert LAYOUTS["zfnet-imagenet"][2] == pytest.approx(62.4e6, rel=0.01)


@pytest.mark.parametrize("make", [vgg.vgg16_bn, vgg.vgg16, alexnet, zfnet])
def test_rebuilt_from_shapes(make):
    full = make()._widths()
    widths = tuple(range(3, 3 + len(full)))
    variables, _ = abstract(make(widths=widths, aux_at=(2,)), 32)
    leaves = jax.tree.leaves_with_path(variables)
    assert widths_of({paths.name(p): x.shape for p, x in leaves}) == widths


@pytest.mark.parametrize(
    ("make", "fields"),
    [(alexnet, {"width": 0.01}), (vgg.vgg16_bn, {"width": 0.05})],
)
def test_rebuilt_is_the_shrunk_function(make, fields):
    model = make(**fields)
    shapes, image = abstract(model, 32)
    variables = filled(shapes)
    coupling = jp.trace_coupling(model.apply, variables, image)
    scores = np.random.default_rng(0).random(coupling.size + 1)
    plan = jp.make_plan(coupling, variables, score=scores, ratio=0.5)
    small = plan.apply(variables)
    x = jnp.asarray(example(image.shape))
    rebuilt = make(widths=widths_of(plan.widths))
    assert rebuilt._widths() != model._widths()
    with quick_compilation():
        shrunk = jp.shrink(model.apply, plan)
        same = jp.certify(rebuilt.apply, small, shrunk, small, [x])
    assert same.relative < 1e-5


def test_every_channel_can_go():
    model = vgg.vgg16_bn(width=1 / 16)
    shapes, image = abstract(model, 32)
    coupling = jp.trace_coupling(model.apply, filled(shapes), image)
    assert coupling.size == sum(model._widths())


def test_width_multiplies_every_layer():
    assert vgg.vgg16(width=0.5)._widths() == (
        *(32, 32, 64, 64, 128, 128, 128),
        *(256,) * 6,
        *(256, 256),
    )


def test_heads_speak_in_training_only_and_can_be_dropped():
    variables, image = abstract(TINY, 8, batch=2)
    assert {k for k in variables["params"] if "aux_" in k} == {"aux_1"}
    (logits, aux), _ = jax.eval_shape(
        lambda v, x: TINY.apply(v, x, train=True, mutable=["batch_stats"]),
        variables,
        image,
    )
    assert logits.shape == (2, 5)
    assert [a.shape for a in aux] == [(2, 5)]
    without = drop_heads(variables)
    assert not any("aux_" in k for k in without["params"])
    assert jax.eval_shape(TINY.apply, without, image).shape == (2, 5)


def test_a_plain_chain_starts_as_a_linear_map():
    key, x = jax.random.key(0), jax.random.normal(jax.random.key(1), (4, 3))

    def through(x):
        for i, (inputs, outputs) in enumerate([(3, 8), (8, 4), (4, 6)]):
            kernel = looks_linear(mirrored=i > 0)(key, (inputs, outputs))
            before, x = x @ kernel, jax.nn.relu(x @ kernel)
        return before

    y = through(x)
    np.testing.assert_allclose(y[:, :3], -y[:, 3:], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(through(2 * x - x[::-1]), 2 * y - y[::-1], 1e-3, 1e-4)
    assert looks_linear(mirrored=True)(key, (3, 3, 5, 7)).shape == (3, 3, 5, 7)


def test_vgg_takes_smaller_images_in_training():
    model = vgg.vgg16(width=0.05)
    variables, _ = abstract(model, 32)
    small = jax.ShapeDtypeStruct((1, 24, 24, 3), jnp.float32)
    assert jax.eval_shape(model.apply, variables, small).shape == (1, 10)


def test_dropout_needs_a_key_and_acts_in_training_only():
    model = TINY.clone(dropout=0.5, norm=False, aux_at=())
    shapes, _ = abstract(model, 8)
    variables, x = filled(shapes), jnp.asarray(example((2, 8, 8, 3)))

    @jax.jit
    def run(key):
        return model.apply(variables, x, train=True, rngs={"dropout": key})

    with quick_compilation():
        first, second, again = (run(jax.random.key(seed)) for seed in (1, 2, 1))
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(first, again)
    assert jax.eval_shape(model.apply, variables, x).shape == (2, 5)
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda v: model.apply(v, x, train=True), variables)


def test_impossible_layouts_are_refused():
    for wrong in (TINY.clone(aux_at=(3,)), TINY.clone(widths=(8, 8))):
        with pytest.raises(ValueError, match="must"):
            abstract(wrong, 8)
    with pytest.raises(ValueError, match="too small"):
        abstract(alexnet_imagenet(), 32)
    with pytest.raises(ValueError, match="no chain"):
        widths_of({})
