"""What the links of jaxprune add to a training step of MobileNetV1, in time and memory.

The same step with the plain optimizer, with `active_stepwise_pruning` between and at
its mask updates, and with `fista` on the factors of batch norm.
"""

import jax
import optax

import jaxprune as jp
from experiments.benchmarks.figure import Figure, alternate, of, single
from experiments.benchmarks.steps import training_step
from experiments.models.mobilenet import MobileNetV1

_CYCLES = 20


def run(short: bool) -> list[Figure]:
    """Batch 128 at full width; the short version 4 at an eighth."""
    batch, width, turns = (4, 0.125, 2) if short else (128, 1.0, _CYCLES // 2)
    plain = optax.sgd(0.01, momentum=0.9)
    factors = jp.paths.label(
        jp.paths.batch_norm_factors, "factors", otherwise="weights"
    )
    links = {
        "plain": plain,
        "between": optax.chain(plain, _stepwise(every=1000)),
        "update": optax.chain(plain, _stepwise(every=1)),
        "fista": optax.partition(
            {"factors": jp.fista(0.01, l1=1e-4, momentum=0.9), "weights": plain},
            factors,
        ),
    }
    model = MobileNetV1(width=width)
    steps = {name: training_step(model, tx, batch) for name, tx in links.items()}
    seconds = alternate(steps, turns)
    plain_s, update_s = seconds["plain"], seconds["update"]
    extra = [(u - p) / p for u, p in zip(update_s, plain_s, strict=True)]
    slower = {
        name: [100 * (s / p - 1) for s, p in zip(seconds[name], plain_s, strict=True)]
        for name in ("between", "fista")
    }
    targets = [{}, {}, {}] if short else [{"most": 2}, {"most": 1}, {"most": 5.01}]
    between, update, memory = targets
    return [
        of("step, plain optimizer", plain_s, "ms", 1e3),
        of("between mask updates, slower", slower["between"], "%", **between),
        of("fista, slower", slower["fista"], "%", **between),
        of("a mask update, of a plain step", extra, "×", **update),
        single("state for each prunable weight", _state_bytes(model), "B", **memory),
    ]


def _stepwise(every: int):
    schedule = jp.schedules.logarithmic(final=0.82, curvature=10, steps=_CYCLES)
    return jp.active_stepwise_pruning(schedule, every)


def _state_bytes(model: MobileNetV1) -> float:
    """1 for a mask and 4 for a dormant value, and the log that all weights share."""
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), float)
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    state = jax.eval_shape(_stepwise(every=1).init, params)
    weights = sum(mask.size for mask in jax.tree.leaves(state.masks))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) / weights
