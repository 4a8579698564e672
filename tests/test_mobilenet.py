"""MobileNetV1: the layouts it claims, auxiliary heads, rebuilding from widths."""

import coupled
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from experiments.models.heads import drop_heads
from experiments.models.mobilenet import MobileNetV1, widths_of
from jaxprune import paths


@pytest.mark.parametrize(
    ("model", "size", "count", "macs"),
    [
        (MobileNetV1(), 32, 3_217_226, 46_350_000),
        (MobileNetV1(width=0.5), 32, 823_722, 12_170_000),
        (MobileNetV1.imagenet(), 224, 4_231_976, 569_000_000),
    ],
)
def test_parameters_and_multiply_adds(model, size, count, macs):
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert jp.parameters(variables["params"]) == count
    assert jp.macs(model.apply, variables, image) == pytest.approx(macs, rel=1e-3)


def test_heads_speak_in_training_only_and_can_be_dropped():
    model = MobileNetV1(width=0.1, aux_at=(4, 13))
    image = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    assert {k for k in variables["params"] if "aux_" in k} == {"aux_4", "aux_13"}

    def train(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    (logits, aux), _ = jax.eval_shape(train, variables, image)
    assert logits.shape == (2, 10)
    assert [a.shape for a in aux] == [(2, 10)] * 2
    without = drop_heads(variables)
    assert not any("aux_" in k for k in without["params"])
    assert jax.eval_shape(model.apply, without, image).shape == (2, 10)


def test_rebuilt_from_shapes():
    widths = tuple(range(3, 17))
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(
        MobileNetV1(widths=widths).init, jax.random.key(0), image
    )
    leaves = jax.tree.leaves_with_path(variables)
    assert widths_of({paths.name(p): x.shape for p, x in leaves}) == widths


def test_a_plan_can_be_built_as_an_ordinary_module():
    model, images = MobileNetV1(width=0.2), coupled.images(2, 8, 8, 3)
    variables = coupled.init(model, images)
    coupling = jp.trace_coupling(model.apply, variables, images)
    plan = jp.Plan.from_keep(coupling, coupled.some(coupling))
    small = plan.apply(variables)
    rebuilt = MobileNetV1(widths=widths_of(plan.widths))
    np.testing.assert_allclose(
        jax.jit(rebuilt.apply)(small, images),
        jax.jit(jp.shrink(model.apply, plan))(small, images),
        rtol=1e-5,
        atol=1e-5,
    )


def test_impossible_layouts_are_refused():
    image = jnp.zeros((1, 8, 8, 3))
    for wrong in (MobileNetV1(aux_at=(14,)), MobileNetV1(widths=(8,) * 13)):
        with pytest.raises(ValueError, match="must"):
            wrong.init(jax.random.key(0), image)
    with pytest.raises(ValueError, match="Conv_0"):
        widths_of({})
