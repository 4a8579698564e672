"""A certificate says exact only where nothing changed."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import Verdict

W = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
X = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)


def linear(w, x):
    return x @ w


def compare(change, **options):
    """The certificate for weights W + change on ten examples in two batches."""
    return jp.certify(linear, W, linear, W + change, [X[:6], X[6:]], **options)


def test_equal_networks_are_exact():
    certificate = compare(0.0)
    assert certificate.verdict == "exact"
    assert certificate.max_abs_diff == certificate.relative == 0
    assert certificate.argmax_agreement == 1
    assert certificate.examples == 10
    assert certificate.raise_if_different() is certificate
    assert str(certificate) == (
        "exact: max |Δ| 0.00e+00 (0.00e+00 of the largest), "
        "argmax agrees on 100.00% of 10 examples"
    )


def test_what_differs_is_measured():
    change = np.zeros_like(W)
    change[0, 0] = 0.5
    certificate = compare(change)
    np.testing.assert_allclose(
        certificate.max_abs_diff, 0.5 * np.abs(X[:, 0]).max(), rtol=1e-5
    )
    np.testing.assert_allclose(
        certificate.relative, certificate.max_abs_diff / np.abs(X @ W).max(), rtol=1e-5
    )
    same = (X @ W).argmax(-1) == (X @ (W + change)).argmax(-1)
    assert certificate.argmax_agreement == same.mean()
    assert certificate.verdict == "approximate"
    with pytest.raises(ValueError, match="is another function: approximate: max"):
        certificate.raise_if_different()


@pytest.mark.parametrize(
    ("relative", "verdict"), [(5e-5, "exact"), (2e-4, "approximate")]
)
def test_the_border_lies_at_one_in_ten_thousand(relative, verdict):
    certificate = jp.certify(
        lambda w, x: x, W, lambda w, x: x * (1 + w), relative, [X, -X]
    )
    assert certificate.verdict == verdict


def test_nan_is_never_exact():
    certificate = compare(np.nan)
    assert certificate.verdict == "approximate"
    assert json.loads(certificate.to_json())["max_abs_diff"] is None
    both = jp.certify(linear, W * np.nan, linear, W * np.nan, [X])
    assert both.verdict == "approximate"


def test_reasoning_can_refuse():
    assert compare(0.0, reasoning=Verdict.MAP).reasoning == "map"
    refused = compare(0.0, reasoning=Verdict.REFUSED)
    assert refused.verdict == "approximate"
    assert str(refused).endswith("; by reasoning refused")


def test_labels_give_the_accuracy():
    right = (X @ W).argmax(-1)
    certificate = compare(-2 * W, labels=[right[:6], right[6:]])
    assert certificate.accuracy[0] == 1
    assert certificate.accuracy[1] < 1
    assert "accuracy 100.00% → " in str(certificate)
    assert json.loads(certificate.to_json())["accuracy"][0] == 1


def test_several_inputs_and_results():
    def fn(w, x, scale):
        return {"logits": scale * (x @ w), "count": jnp.int32(3)}

    certificate = jp.certify(fn, W, fn, W, [(X, 2.0), (X, 3.0)])
    assert certificate.verdict == "exact"
    assert certificate.examples == 20


def test_each_result_is_judged_by_its_own_size():
    def fn(w, x):
        return x @ w, jnp.full(3, 1e6)

    certificate = jp.certify(fn, W, fn, W[:, ::-1], [X])
    assert certificate.verdict == "approximate"
    np.testing.assert_allclose(
        certificate.relative, certificate.max_abs_diff / np.abs(X @ W).max(), rtol=1e-5
    )


@pytest.mark.parametrize(
    ("small_fn", "batches", "message"),
    [
        (linear, [], "at least one batch"),
        (linear, [X[:0]], "at least one example"),
        (lambda w, x: (x @ w)[:, :2], [X], r"shapes \[\(10, 3\)\] and \[\(10, 2\)\]"),
    ],
)
def test_what_cannot_be_compared(small_fn, batches, message):
    with pytest.raises(ValueError, match=message):
        jp.certify(linear, W, small_fn, W, batches)
    with pytest.raises(ValueError, match="has none"):
        jp.certify(lambda w, x: jnp.argmax(x), W, linear, W, [X])


def test_removal_of_live_channels_is_held_to_the_masked_network():
    def mlp(v, x):
        return jax.nn.sigmoid(x @ v["in"]) @ v["out"]

    variables = {"in": jnp.asarray(W), "out": jnp.asarray(W.T)}
    coupling = jp.trace_coupling(mlp, variables, X[:1])
    plan = jp.make_plan(coupling, variables, score=jp.importance.magnitude, ratio=0.4)
    small, small_fn = plan.apply(variables), jp.shrink(mlp, plan)
    masked = plan.mask(variables)
    reasoning = jp.judge(coupling, masked).verdict(plan)
    jp.certify(
        mlp, masked, small_fn, small, [X], reasoning=reasoning
    ).raise_if_different()
    assert jp.judge(coupling, variables).verdict(plan) == Verdict.REFUSED
    assert jp.certify(mlp, variables, small_fn, small, [X]).verdict == "approximate"
