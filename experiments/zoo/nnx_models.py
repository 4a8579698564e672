"""Networks in Flax NNX."""

from collections.abc import Callable

from flax import nnx

from experiments.zoo.entry import Entry, Model, example, filled


class CNN(nnx.Module):
    """Convolution, depthwise with two filters per channel, flatten, classifier."""

    def __init__(self, rngs: nnx.Rngs, width: int = 12, classes: int = 10):
        self.stem = nnx.Conv(3, width, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs, use_running_average=True)
        self.depthwise = nnx.Conv(
            width, 2 * width, (3, 3), feature_group_count=width, rngs=rngs
        )
        self.point = nnx.Conv(2 * width, width, (1, 1), rngs=rngs)
        self.head = nnx.Linear(width * 8 * 8, classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.stem(x)))
        x = nnx.relu(self.depthwise(x))
        x = nnx.avg_pool(nnx.silu(self.point(x)), (2, 2), (2, 2))
        return self.head(x.reshape(x.shape[0], -1))


class MLP(nnx.Module):
    """Three linear layers, layer normalisation between."""

    def __init__(self, rngs: nnx.Rngs, width: int = 24, classes: int = 10):
        self.first = nnx.Linear(12, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.gelu(self.norm(self.first(x)))
        return self.head(nnx.tanh(self.second(x)))


class Residual(nnx.Module):
    """A small residual network: a stem and a list of basic blocks."""

    def __init__(self, rngs: nnx.Rngs, widths=(12, 12, 24), classes: int = 10):
        self.stem = nnx.Conv(3, widths[0], (3, 3), rngs=rngs)
        inputs = (widths[0], *widths)
        self.blocks = nnx.List(
            _Block(before, after, rngs)
            for before, after in zip(inputs, widths, strict=False)
        )
        self.head = nnx.Linear(widths[-1], classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class _Block(nnx.Module):
    def __init__(self, before: int, after: int, rngs: nnx.Rngs):
        stride = 1 if before == after else 2
        self.conv1 = nnx.Conv(before, after, (3, 3), stride, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(after, rngs=rngs, use_running_average=True)
        self.conv2 = nnx.Conv(after, after, (3, 3), use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(after, rngs=rngs, use_running_average=True)
        self.project = (
            nnx.Conv(before, after, (1, 1), stride, rngs=rngs) if stride > 1 else None
        )

    def __call__(self, x):
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(y + (x if self.project is None else self.project(x)))


class Attention(nnx.Module):
    """One self-attention block with an MLP, mean over time."""

    def __init__(self, rngs: nnx.Rngs, width: int = 16, classes: int = 5):
        self.embed = nnx.Linear(6, width, rngs=rngs)
        self.norm = nnx.RMSNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            4, width, decode=False, deterministic=True, rngs=rngs
        )
        self.head = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        x = x + self.attention(self.norm(x))
        return self.head(x.mean(1))


def _entry(
    name: str,
    make: Callable[[nnx.Rngs], nnx.Module],
    shape: tuple[int, ...],
    *,
    floor: float,
) -> Entry:
    def build() -> Model:
        graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
        x = example(shape)
        return Model(lambda v, x: nnx.merge(graph, v)(x), filled(state), x)

    return Entry(name, "nnx", floor, build)


ENTRIES = (
    _entry("nnx-cnn", CNN, (4, 16, 16, 3), floor=0.95),
    _entry("nnx-mlp", MLP, (4, 12), floor=0.85),
    _entry("nnx-resnet", Residual, (4, 16, 16, 3), floor=0.9),
    _entry("nnx-attention", Attention, (4, 5, 6), floor=0.92),
)
