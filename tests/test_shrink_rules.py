"""Operation by operation: the small result is the dense one with zeros."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from coupled import agree, images
from jax import lax
from jax.ad_checkpoint import checkpoint_name

X = images(2, 4, 4, 3)
TOKENS = images(2, 6, 8)


def tree(**shapes):
    return {
        name: images(*shape, seed=i) / np.float32(shape[0] ** 0.5)
        for i, (name, shape) in enumerate(shapes.items())
    }


def convolve(x, kernel, groups=1, strides=(1, 1), padding="SAME"):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def between(middle, width=8, out=None):
    """`middle` between two matrices, where it may lose channels."""
    variables = tree(w=(3, width), v=(out or width, 2))

    def fn(p, x):
        return jnp.tanh(middle(jnp.tanh(x @ p["w"]))) @ p["v"]

    return fn, variables


MIDDLES = {
    "implicit broadcast": lambda x: x * x.mean((1, 2), keepdims=True),
    "strided slice": (lambda x: x[..., ::2], 8, 4),
    "slice from the middle": (lambda x: x[..., 2:7], 8, 5),
    "slice of every third": (lambda x: x[..., 1::3], 8, 3),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 1), (2, 3))), 8, 13),
    "negative pad": (
        lambda x: lax.pad(x, 0.0, [(0, 0, 0)] * 3 + [(-2, 1, 0)]),
        8,
        7,
    ),
    "concatenate": (lambda x: jnp.concatenate([x, x[..., :3], x], -1), 8, 19),
    "reverse": lambda x: x[..., ::-1] + x,
    "split": lambda x: jnp.multiply(*jnp.split(x, 2, -1)).repeat(2, -1),
    "uneven split": lambda x: jnp.concatenate(jnp.split(x, [3], -1)[::-1], -1),
    "tile": (lambda x: jnp.tile(x, 2), 8, 16),
    "repeat": (lambda x: jnp.repeat(x, 2, -1), 8, 16),
    "shuffle": lambda x: x.reshape(2, 4, 4, 2, 4).swapaxes(-1, -2).reshape(2, 4, 4, 8),
    "max pool": lambda x: lax.reduce_window(
        x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "SAME"
    ),
    "average pool": lambda x: lax.reduce_window(
        x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
    ),
    "resize": lambda x: jax.image.resize(x, (2, 7, 7, 8), "bilinear"),
    "count": lambda x: x * jnp.arange(8) + jnp.eye(8)[3],
    "stack": lambda x: jnp.stack([x, 2 * x], 1).sum(1),
    "where": lambda x: jnp.where(x > 0, x, jnp.expm1(x)),
    "clip": lambda x: jnp.clip(x, -0.5, 0.5),
    "sort along space": lambda x: jnp.sort(x, axis=1),
    "cumulative sum along space": lambda x: jnp.cumsum(x, axis=2),
    "gather space": lambda x: x[:, jnp.array([2, 0, 1])],
    "dynamic slice": lambda x: lax.dynamic_slice_in_dim(x, x.size % 3, 2, 1),
    "dynamic update": lambda x: lax.dynamic_update_slice_in_dim(x, 2 * x[:, :2], 1, 1),
    "scatter": lambda x: x.at[:, jnp.array([1, 3])].add(x[:, :2]),
    "mean over channels": lambda x: x - x.mean(-1, keepdims=True) * (x != 0),
    "einsum": lambda x: jnp.einsum("bhwc,bkwc->bhkc", x, x),
    "half precision": lambda x: x.astype(jnp.bfloat16).astype(jnp.float32),
    "while": lambda x: lax.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, jnp.sin(s[1])), (0, x)
    )[1],
    "fori": lambda x: lax.fori_loop(0, 3, lambda i, x: x * 0.9 + i * x, x),
    "barrier": lambda x: lax.optimization_barrier((x, 2 * x))[1],
    "checkpoint name": lambda x: checkpoint_name(x, "x"),
    "associative scan": lambda x: lax.associative_scan(jnp.add, x, axis=1),
    "top k along space": lambda x: lax.top_k(x.swapaxes(1, 3), 2)[0].swapaxes(1, 3),
    "batch norm": lambda x: (x - x.mean((0, 1, 2))) * lax.rsqrt(x.var((0, 1, 2)) + 1),
}


@pytest.mark.parametrize("name", MIDDLES)
def test_middle(name):
    entry = MIDDLES[name]
    middle, *widths = entry if isinstance(entry, tuple) else (entry,)
    fn, variables = between(middle, *widths)
    result = agree(fn, variables, X)
    assert not any(f.unknown for f in result.coupling.frozen)


def test_shuffled_grouped_convolutions():
    def fn(p, x):
        x = jnp.tanh(x @ p["w"])
        x = jnp.tanh(convolve(x, p["k"], 4))
        x = x.reshape(2, 4, 4, 4, 3).swapaxes(-1, -2).reshape(2, 4, 4, 12)
        x = jnp.tanh(convolve(x, p["l"], 3))
        return x @ p["v"]

    variables = tree(w=(3, 8), k=(3, 3, 2, 12), l=(1, 1, 4, 6), v=(6, 2))
    agree(fn, variables, X)


@pytest.mark.parametrize("grouped", ["within", "whole"])
def test_grouped_convolution(grouped):
    def fn(p, x):
        return jnp.tanh(convolve(jnp.tanh(x @ p["w"]), p["k"], 4)) @ p["v"]

    agree(fn, tree(w=(3, 8), k=(3, 3, 2, 12), v=(12, 2)), X, grouped=grouped)


def test_depthwise_with_multiplier_then_flatten():
    def fn(p, x):
        x = jnp.tanh(convolve(jnp.tanh(x @ p["w"]), p["k"], 6, (2, 2)))
        return x.transpose(0, 3, 1, 2).reshape(2, -1) @ p["v"]

    agree(fn, tree(w=(3, 6), k=(3, 3, 1, 12), v=(48, 2)), X)


def test_transposed_convolution_and_channels_first():
    def fn(p, x):
        x = jnp.tanh(x @ p["w"])
        x = lax.conv_transpose(
            x, p["k"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = lax.conv_general_dilated(
            jnp.tanh(x).transpose(0, 3, 1, 2), p["l"], (1, 1), "VALID"
        )
        return jnp.einsum("bchw,co->bo", x, p["v"])

    agree(fn, tree(w=(3, 6), k=(2, 2, 6, 5), l=(7, 5, 3, 3), v=(7, 2)), X)


def test_concatenation_of_concatenations_with_statistics():
    """DenseNet: each slot of a statistic is tied to its producer."""
    widths = (4, 3, 3)

    def fn(p, x):
        means, x = [], x @ p["stem"]
        for i in range(2):
            mean = x.mean((0, 1, 2))
            means.append(0.9 * p[f"mean{i}"] + 0.1 * mean)
            y = (x - mean) * p[f"scale{i}"]
            x = jnp.concatenate([x, jnp.tanh(convolve(y, p[f"k{i}"]))], -1)
        return x @ p["v"], {f"mean{i}": m for i, m in enumerate(means)}

    variables = tree(
        stem=(3, 4),
        mean0=(4,),
        scale0=(4,),
        k0=(3, 3, 4, 3),
        mean1=(7,),
        scale1=(7,),
        k1=(3, 3, 7, 3),
        v=(sum(widths), 2),
    )
    result = agree(fn, variables, X, renews=True)
    labels = {p: leaf.labels for p, leaf in result.coupling.leaves.items()}
    assert (labels["mean1"][0][:4] == labels["stem"][1]).all()
    assert (labels["mean1"][0][4:] == labels["k0"][3]).all()
    assert (labels["v"][0][7:] == labels["k1"][3]).all()
    assert result.coupling.size == sum(widths)


def test_shortcut_by_strided_slice_and_channel_pad():
    def fn(p, x):
        x = jnp.tanh(x @ p["w"])
        y = convolve(jnp.tanh(convolve(x, p["k"], strides=(2, 2))), p["l"])
        x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (2, 2)))
        return jnp.tanh(x + y) @ p["v"]

    variables = tree(w=(3, 4), k=(3, 3, 4, 5), l=(3, 3, 5, 8), v=(8, 2))
    result = agree(fn, variables, X)
    assert result.coupling.size == 4 + 5 + 4


@pytest.mark.parametrize("split", ["inner", "outer"])
def test_attention(split):
    def fn(p, x):
        def part(name):
            return (x @ p[name]).reshape(2, 6, 4, 5)

        scores = jnp.einsum("bqhd,bkhd->bhqk", part("q"), part("k"))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), part("v"))
        return mixed.reshape(2, 6, 20) @ p["o"]

    variables = tree(q=(8, 20), k=(8, 20), v=(8, 20), o=(20, 8))
    result = agree(fn, variables, TOKENS, split=split)
    assert result.coupling.size == {"inner": 10, "outer": 4}[split]


@pytest.mark.parametrize("split", ["inner", "outer"])
@pytest.mark.parametrize("repeated", [True, False])
def test_grouped_queries(split, repeated):
    """Four heads of queries share two of keys and values."""

    def fn(p, x):
        q = jnp.einsum("btc,chd->bthd", x, p["q"])
        k = jnp.einsum("btc,chd->bthd", x, p["k"])
        v = jnp.einsum("btc,chd->bthd", x, p["v"])
        if repeated:
            k, v = (jnp.repeat(a, 2, axis=2) for a in (k, v))
            scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
            mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
        else:
            q = q.reshape(2, 6, 2, 2, 5)
            scores = jnp.einsum("bqhrd,bkhd->bhrqk", q, k)
            mixed = jnp.einsum("bhrqk,bkhd->bqhrd", jax.nn.softmax(scores), v)
            mixed = mixed.reshape(2, 6, 4, 5)
        return jnp.einsum("bthd,hdc->btc", mixed, p["o"])

    variables = tree(q=(8, 4, 5), k=(8, 2, 5), v=(8, 2, 5), o=(4, 5, 8))
    result = agree(fn, variables, TOKENS, split=split)
    assert result.coupling.size == 5 + 5 + 2  # widths of q·k and v·o; heads


@pytest.mark.parametrize("split", ["inner", "outer"])
def test_group_norm(split):
    def fn(p, x):
        x = x @ p["w"]
        g = x.reshape(2, 4, 4, 2, 4)
        mean = g.mean((1, 2, 4), keepdims=True)
        square = (g**2).mean((1, 2, 4), keepdims=True)
        x = (x * lax.rsqrt(square - mean**2 + 1).repeat(4, -1).reshape(2, 1, 1, 8)) + (
            p["shift"]
        )
        return x @ p["v"]

    variables = tree(w=(3, 8), shift=(8,), v=(8, 2))
    result = agree(fn, variables, X, split=split)
    assert result.coupling.size == {"inner": 4, "outer": 2}[split]


def test_tied_weights_and_embeddings():
    def fn(p, ids):
        x = p["embed"][ids]
        x = x + jnp.tanh(x @ p["w"]) @ p["w"].T
        return x @ p["embed"].T

    ids = np.array([[1, 4, 0], [2, 2, 6]])
    result = agree(fn, tree(embed=(7, 6), w=(6, 5)), ids)
    assert result.coupling.size == 6 + 5


def test_scanned_blocks_and_a_recurrent_cell():
    def block(x, p):
        return x + jnp.tanh(x @ p["up"]) @ p["down"], x.sum(-1)

    def fn(p, x):
        x, sums = lax.scan(block, x @ p["w"], p["blocks"])
        _, states = lax.scan(
            lambda h, x: (jnp.tanh(x @ p["in"] + h @ p["rec"]),) * 2,
            jnp.zeros((2, p["rec"].shape[0])),
            x.swapaxes(0, 1),
            reverse=True,
            unroll=2,
        )
        return states @ p["v"], sums

    variables = tree(w=(8, 6), rec=(5, 5), v=(5, 2)) | {
        "in": images(6, 5),
        "blocks": tree(up=(3, 6, 7), down=(3, 7, 6)),
    }
    result = agree(fn, variables, TOKENS)
    assert result.coupling.size == 6 + 7 + 5
    assert not result.coupling.leaves["blocks/up"].labels[0].any()


def test_squeeze_and_excite():
    def fn(p, x):
        x = jnp.tanh(x @ p["w"])
        gate = jax.nn.relu(x.mean((1, 2)) @ p["down"]) @ p["up"]
        return (x * jax.nn.sigmoid(gate)[:, None, None]) @ p["v"]

    result = agree(fn, tree(w=(3, 8), down=(8, 4), up=(4, 8), v=(8, 2)), X)
    assert result.coupling.size == 8 + 4


@pytest.mark.parametrize("norm", ["fast", "two passes"])
def test_layer_norm_divides_by_the_dense_count(norm):
    """The fast variance is exact on zeros; the other counts (0 − mean)²."""

    def fn(p, x):
        x = x @ p["w"]
        mean = x.mean(-1, keepdims=True)
        if norm == "fast":
            variance = (x**2).mean(-1, keepdims=True) - mean**2
        else:
            variance = ((x - mean) ** 2).mean(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(variance + 1e-6) * p["scale"] @ p["v"]

    variables = tree(w=(8, 6), scale=(6,), v=(6, 2))
    if norm == "fast":
        agree(fn, variables, TOKENS)
    else:
        with pytest.raises(AssertionError):
            agree(fn, variables, TOKENS)


def test_branches_by_platform_with_their_own_derivatives():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(
        lambda x, w: (x @ w, (x, w)),
        lambda kept, g: (g @ kept[1].T, jnp.einsum("bhwi,bhwo->io", kept[0], g)),
    )

    def fn(p, x):
        x = lax.platform_dependent(x, p["w"], cpu=product, default=jnp.matmul)
        return (jnp.tanh(x) @ p["v"]).sum((1, 2, 3))

    variables = tree(w=(3, 6), v=(6, 2))
    result = agree(fn, variables, X)
    assert result.coupling.size == 6 + 2
    want = jax.grad(lambda p: fn(p, X).sum())(result.dense)
    got = jax.grad(lambda p: result.fn(p, X).sum())(result.small)
    for name, leaf in result.plan.apply(want).items():
        np.testing.assert_allclose(got[name], leaf, atol=1e-5)
    text = str(jax.make_jaxpr(result.fn)(result.small, X))
    assert "branches_platforms=(('cpu',), None)" in text
    assert "custom_vjp_call" in text


def test_ordinary_branches():
    def fn(p, x):
        x = jnp.tanh(x @ p["w"])
        x = lax.switch(
            jnp.argmax(x[0, 0, 0, :1]) + 1,
            [jnp.sin, lambda x: x * p["scale"], jnp.cos],
            x,
        )
        return x @ p["v"]

    agree(fn, tree(w=(3, 8), scale=(8,), v=(8, 2)), X)
