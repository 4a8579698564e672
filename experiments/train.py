"""Training: `fit` runs one phase, from wherever it stopped before, to its end.

The optimizer is any optax transformation, the network any two pure functions, so every
method is trained by the same few lines, and compared like with like.
"""

import dataclasses
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments import augment, interrupts
from experiments.devices import Placement, placement
from experiments.errors import NotFinite
from experiments.evaluate import estimate_statistics, make_evaluate
from experiments.losses import LossFn, classification
from experiments.networks import Network, Variables
from experiments.progress import Progress
from experiments.runs import Phase, Record, Run
from experiments.step import (
    EvalParams,
    Examples,
    Observe,
    State,
    Step,
    batch,
    initial,
    make_advance,
    shuffled,
)

_DISPATCH_SECONDS = 0.5
_STATISTICS_BATCHES = 50


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a phase trains."""

    epochs: int
    """Passes over the training images."""
    batch_size: int = 128
    """Images per update, over all devices together."""
    small_epochs: int = 0
    """Epochs at the start that use images of `small_size`."""
    small_size: int = 24
    """Height and width of the images in those epochs, in pixels."""
    crop: int = 4
    """Random shift of the training images, in pixels either way; 0: none."""
    average_last: float = 0.0
    """Share of the steps, at the end, whose parameters are averaged; 0: none."""
    log_every: int = 50
    """Updates between two lines of metrics."""
    seed: int = 0
    """Seed of the order and the augmentation of the images."""

    def __post_init__(self):
        for field in ("epochs", "batch_size", "log_every"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be 1 or more, got {self!r}")
        if not 0 <= self.average_last <= 1:
            raise ValueError(f"average_last must be in [0, 1], got {self.average_last}")

    def steps_per_epoch(self, examples: int) -> int:
        """Whole batches in an epoch; what is left over differs from epoch to epoch."""
        if examples < self.batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is more than the {examples} images"
            )
        return examples // self.batch_size

    def steps(self, examples: int) -> int:
        """Updates in all: what a learning-rate schedule needs to know."""
        return self.epochs * self.steps_per_epoch(examples)


class Fitted(NamedTuple):
    """What a phase leaves.

    variables: to evaluate and ship: `eval_params` of the state, averaged if asked.
    trained: the variables as the optimizer has them, to train on.
    opt_state: the optimizer's state.
    result: loss and accuracy of `variables` on the test images, and the last metrics.
    """

    variables: Variables
    trained: Variables
    opt_state: optax.OptState
    result: Record


def fit(
    network: Network,
    variables: Variables,
    tx: optax.GradientTransformation,
    dataset: Any,
    recipe: Recipe,
    *,
    loss: LossFn | None = None,
    opt_state: optax.OptState | None = None,
    eval_params: EvalParams = lambda opt_state, params: params,
    observe: Observe = lambda opt_state, params: {},
    measure: Callable[[Variables], Record] = lambda variables: {},
    run: Run | None = None,
    name: str = "train",
    progress: Progress | None = None,
    devices: list[jax.Device] | None = None,
) -> Fitted:
    """Trains `variables` by `tx` on `dataset`.

    Args:
      network: the functions to train and to evaluate.
      variables: where to start; left as they are.
      tx: any optax transformation, on `variables["params"]`.
      dataset: `experiments.data.Dataset`, or anything with its fields.
      recipe: epochs, batches, augmentation.
      loss: `loss(outputs, labels)`; cross-entropy with smoothing 0.1 by default.
      opt_state: to go on with, instead of `tx.init`.
      eval_params: `(opt_state, params) -> params` to evaluate, such as
        `jaxprune.primal_params`; inside jit.
      observe: `(opt_state, params) -> {name: scalar}` to log; inside jit.
      measure: `variables -> {name: number}` to log after an epoch; outside jit.
      run: folder for checkpoints and metrics; None: nothing is written.
      name: of the phase, for the folder, the logs and the seed.
      progress: shows how it goes.
      devices: to split the batches over; all by default.

    Returns:
      The trained and the deliverable variables; from the checkpoint when the phase
      was finished before.

    Raises:
      NotFinite: NaN or infinity; names the step, and the last good checkpoint.
      KeyboardInterrupt: after Ctrl-C, once the state is saved.
    """
    trainer = _Trainer(
        network, tx, dataset, recipe, loss or classification(), eval_params, observe,
        measure, run.phase(name) if run else None, name, progress, placement(devices),
    )  # fmt: skip
    try:
        return trainer.fit(variables, opt_state)
    finally:
        trainer.close()


@dataclasses.dataclass
class _Trainer:
    """What stays the same while a phase runs, and its loop."""

    network: Network
    tx: optax.GradientTransformation
    dataset: Any
    recipe: Recipe
    loss: LossFn
    eval_params: EvalParams
    observe: Observe
    measure: Callable[[Variables], Record]
    phase: Phase | None
    name: str
    progress: Progress | None
    placement: Placement

    def __post_init__(self):
        images = self.dataset.train_images
        self.per_epoch = self.recipe.steps_per_epoch(len(images))
        self.total = self.recipe.steps(len(images))
        self.size = images.shape[1]
        if self.placement.batch is not None:
            count = self.placement.batch.num_devices
            if self.recipe.batch_size % count:
                raise ValueError(
                    f"batch_size {self.recipe.batch_size} cannot be split evenly over "
                    f"{count} devices"
                )
        self.step = Step(
            network=self.network,
            tx=self.tx,
            loss=self.loss,
            normalisation=augment.normalisation(self.dataset),
            batch_size=self.recipe.batch_size,
            crop=self.recipe.crop,
            flip=augment.can_flip(self.dataset.name),
            average_from=int(self.total * (1 - self.recipe.average_last)),
            eval_params=self.eval_params,
            observe=self.observe,
            sharding=self.placement.batch,
            fused=jax.default_backend() != "cpu",
        )
        self.advance = make_advance(self.step)
        self.evaluate = make_evaluate(self.network.predict, self.step.normalisation)
        seed = jax.random.key(self.recipe.seed)
        self.shuffle_key, self.augment_key, self.statistics_key = jax.random.split(
            jax.random.fold_in(seed, zlib.crc32(self.name.encode())), 3
        )

    def fit(self, variables: Variables, opt_state: optax.OptState | None) -> Fitted:
        state = self.start(variables, opt_state)
        result = self.phase.result if self.phase else None
        if result is not None:
            if self.progress:
                self.progress.skip(self.name)
            return self.fitted(state, self.deliver(state), result)
        self.train_set, self.test_set = self.placement.put(
            (
                Examples(self.dataset.train_images, self.dataset.train_labels),
                Examples(self.dataset.test_images, self.dataset.test_labels),
            )
        )
        with interrupts.held() as stop:
            state, record = self.run(state, stop)
            delivered = self.deliver(state)
            if record is None or self.recipe.average_last:
                tested = self.evaluate(delivered, self.test_set)
                record = {**(record or {}), **_named("test", tested)}
            if self.phase:
                self.phase.finish(record)
        if stop.asked:
            raise KeyboardInterrupt
        return self.fitted(state, delivered, record)

    def start(self, variables: Variables, opt_state: optax.OptState | None) -> State:
        """The state to go on from: of the newest checkpoint, or a new one."""
        if opt_state is None:
            opt_state = self.tx.init(variables["params"])
        average = None
        if self.recipe.average_last:
            average = self.eval_params(opt_state, variables["params"])
        state = initial(variables, opt_state, average=average)
        state = self.placement.put(state)
        if self.phase:
            if self.phase.checkpoints.latest_step is not None:
                state = self.phase.checkpoints.restore(state)
            self.phase.rewind(int(state.step))
        return state

    def run(self, state: State, stop: interrupts.Stop) -> tuple[State, Record | None]:
        """Updates until the end; returns the record of the last epoch, if it ran."""
        step, record, order, order_of = int(state.step), None, None, None
        reports = _Reports(self)
        if self.progress:
            self.progress.start(self.name, step, self.total, self.recipe.batch_size)
        while step < self.total:
            epoch, first = divmod(step, self.per_epoch)
            if order_of != epoch:
                count = len(self.dataset.train_images)
                order, order_of = shuffled(self.shuffle_key, epoch, count), epoch
            count = reports.next_count(first, self.per_epoch)
            small = epoch < self.recipe.small_epochs
            px = self.recipe.small_size if small else self.size
            state, report = self.advance(
                state,
                self.train_set,
                order,
                self.augment_key,
                first,
                count,
                px=px,
            )
            step += count
            reports.add(count, report, px)
            if step % self.per_epoch == 0:
                record = {**reports.flush(), **self.test(state)}
                self.log(record)
                reports.restart_clock()
            if self.phase and (
                stop.asked or step == self.total or self.phase.checkpoints.due
            ):
                reports.flush()
                self.phase.checkpoints.save(step, state)
                reports.restart_clock()
            if stop.asked and step < self.total:
                raise KeyboardInterrupt
        return state, record

    def test(self, state: State) -> Record:
        """Metrics of an epoch's end."""
        variables = self.evaluated(state)
        tested = self.evaluate(variables, self.test_set)
        return {**_named("test", tested), **self.measure(variables)}

    def evaluated(self, state: State) -> Variables:
        params = self.eval_params(state.opt_state, state.params)
        return {"params": params, **state.statistics}

    def deliver(self, state: State) -> Variables:
        """The variables to ship: averages, with statistics that belong to them."""
        if state.average is None:
            return self.evaluated(state)
        count = len(self.dataset.train_images)
        order = shuffled(self.statistics_key, 0, count)
        examples = self.placement.put(
            Examples(self.dataset.train_images, self.dataset.train_labels)
        )
        make = jax.jit(
            lambda examples, order, i, key: batch(
                self.step, examples, order, i, key, self.size
            )
        )
        batches = (
            make(examples, order, i, jax.random.fold_in(self.statistics_key, i))[0]
            for i in range(min(_STATISTICS_BATCHES, self.per_epoch))
        )
        averaged = {"params": state.average, **state.statistics}
        return estimate_statistics(self.network, averaged, batches)

    def fitted(self, state: State, delivered: Variables, result: Record) -> Fitted:
        trained = {"params": state.params, **state.statistics}
        return Fitted(delivered, trained, state.opt_state, result)

    def seen(self, record: Record, images_per_second: float | None) -> None:
        """Takes in the metrics of a dispatch, which come one dispatch late."""
        bad_step = record.pop("bad_step")
        if bad_step >= 0:
            saved = self.phase.checkpoints.latest_step if self.phase else None
            raise NotFinite(
                f"{self.name}: NaN or infinity in the loss, the gradient or the "
                f"parameters at step {bad_step} of {self.total}; "
                + ("no checkpoint" if saved is None else f"checkpoint of step {saved}")
                + " kept"
            )
        first = record["step"] % self.per_epoch
        if first and first % self.recipe.log_every == 0:
            self.log(record)
        if self.progress:
            self.progress.show(record, images_per_second)

    def log(self, record: Record) -> None:
        record = {**record, "epoch": record["step"] / self.per_epoch}
        if self.phase:
            self.phase.log(record)
        if self.progress and "test_accuracy" in record:
            self.progress.epoch(record)

    def close(self) -> None:
        if self.phase:
            self.phase.close()


class _Reports:
    """Fetches the metrics of a dispatch while the next one runs; sets their length."""

    def __init__(self, trainer: _Trainer):
        self.trainer = trainer
        self.pending: tuple[int, Any, bool] | None = None
        self.last: Record = {}
        self.px: int | None = None
        self.seconds_per_step = np.inf
        self.clock = time.perf_counter()

    def next_count(self, first: int, per_epoch: int) -> int:
        """Updates in the next dispatch: about half a second, no line of log crossed."""
        if not self.trainer.step.fused:
            return 1
        every = self.trainer.recipe.log_every
        room = min(every - first % every, per_epoch - first)
        return min(room, max(1, int(_DISPATCH_SECONDS / self.seconds_per_step)))

    def restart_clock(self) -> None:
        """Leaves out of the rate what was done since the last dispatch."""
        self.clock = time.perf_counter()

    def add(self, count: int, report: Any, px: int) -> None:
        """Takes a dispatch that was just made; one at a new size was compiled first."""
        self.flush()
        self.pending = (count, report, px == self.px)
        self.px = px

    def flush(self) -> Record:
        """Waits for the dispatch that is pending; returns the newest metrics."""
        if self.pending is not None:
            (count, report, timed), self.pending = self.pending, None
            record = {k: v.item() for k, v in jax.device_get(report).items()}
            now = time.perf_counter()
            seconds, self.clock = (now - self.clock) / count, now
            rate = None
            if timed:
                self.seconds_per_step = seconds
                rate = self.trainer.recipe.batch_size / seconds
            self.trainer.seen(dict(record), rate)
            self.last = {k: v for k, v in record.items() if k != "bad_step"}
        return self.last


def _named(prefix: str, record: Record) -> Record:
    return {f"{prefix}_{name}": value for name, value in record.items()}
