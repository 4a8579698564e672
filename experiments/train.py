"""Training: `fit` runs one phase, from wherever it stopped before, to its end.

The optimizer is any optax transformation, the network any two pure functions, so every
method is trained by the same few lines, and compared like with like.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from experiments import augment, feeds, interrupts
from experiments.devices import Placement, placement
from experiments.errors import NotFinite
from experiments.evaluate import estimate_statistics, make_evaluate
from experiments.late_metrics import LateMetrics
from experiments.losses import LossFn, classification
from experiments.networks import Network, Variables
from experiments.progress import Progress
from experiments.recipe import Recipe
from experiments.runs import Phase, Record, Run
from experiments.step import EvalParams, Observe, State, Step, initial, make_advance

_STATISTICS_BATCHES = 50


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
      dataset: `experiments.data.Dataset`, or anything with its fields, or
        `experiments.data.Stream`.
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
        if self.placement.batch is not None:
            count = self.placement.batch.num_devices
            if self.recipe.batch_size % count:
                raise ValueError(
                    f"batch_size {self.recipe.batch_size} cannot be split evenly over "
                    f"{count} devices"
                )
        seed = jax.random.key(self.recipe.seed)
        order_key, self.augment_key, statistics_key = jax.random.split(
            jax.random.fold_in(seed, zlib.crc32(self.name.encode())), 3
        )
        keys = feeds.Keys(order_key, statistics_key)
        self.feed = feeds.feed(self.dataset, self.recipe, self.placement, keys)
        self.per_epoch = self.recipe.steps_per_epoch(self.feed.count)
        self.total = self.recipe.steps(self.feed.count)
        self.step = Step(
            network=self.network,
            tx=self.tx,
            loss=self.loss,
            read=self.feed.read,
            batch_size=self.recipe.batch_size,
            average_from=int(self.total * (1 - self.recipe.average_last)),
            eval_params=self.eval_params,
            observe=self.observe,
            fused=self.feed.fused and jax.default_backend() != "cpu",
        )
        self.advance = make_advance(self.step)
        self.evaluate = make_evaluate(
            self.network.predict, augment.normalisation(self.dataset)
        )

    def fit(self, variables: Variables, opt_state: optax.OptState | None) -> Fitted:
        state = self.start(variables, opt_state)
        result = self.phase.result if self.phase else None
        if result is not None:
            if self.progress:
                self.progress.skip(self.name)
            return self.fitted(state, self.deliver(state), result)
        with interrupts.held() as stop:
            state, record = self.run(state, stop)
            delivered = self.deliver(state)
            if record is None or self.recipe.average_last:
                tested = self.evaluate(delivered, self.feed.test())
                record = {**(record or {}), **_named("test", tested)}
            if self.phase:
                self.phase.finish(record)
        if stop.asked:
            raise KeyboardInterrupt
        return self.fitted(state, delivered, record)

    def start(self, variables: Variables, opt_state: optax.OptState | None) -> State:
        """The state to go on from: of the newest checkpoint, or a new one."""
        if opt_state is None:
            opt_state = jax.jit(self.tx.init)(variables["params"])
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
        step, record = int(state.step), None
        late = LateMetrics(self.recipe, self.step.fused, self.seen)
        if self.progress:
            self.progress.start(self.name, step, self.total, self.recipe.batch_size)
        while step < self.total:
            epoch, first = divmod(step, self.per_epoch)
            count = late.next_count(first, self.per_epoch)
            small = epoch < self.recipe.small_epochs
            px = self.recipe.small_size if small else self.feed.size
            fetched = self.feed.fetch(step)
            state, report = self.advance(
                state, fetched, self.augment_key, first, count, px=px
            )
            step += count
            late.add(count, report, px)
            if step % self.per_epoch == 0:
                record = {**late.flush(), **self.test(state)}
                self.log(record)
                late.restart_clock()
            if self.phase and (
                stop.asked or step == self.total or self.phase.checkpoints.due
            ):
                late.flush()
                self.phase.checkpoints.save(step, state)
                late.restart_clock()
            if stop.asked and step < self.total:
                raise KeyboardInterrupt
        return state, record

    def test(self, state: State) -> Record:
        """Metrics of an epoch's end."""
        variables = self.evaluated(state)
        tested = self.evaluate(variables, self.feed.test())
        return {**_named("test", tested), **self.measure(variables)}

    def evaluated(self, state: State) -> Variables:
        params = self.eval_params(state.opt_state, state.params)
        return {"params": params, **state.statistics}

    def deliver(self, state: State) -> Variables:
        """The variables to ship: averages, with statistics that belong to them."""
        if state.average is None:
            return self.evaluated(state)
        averaged = {"params": state.average, **state.statistics}
        batches = self.feed.sample(_STATISTICS_BATCHES)
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
        self.feed.close()
        if self.phase:
            self.phase.close()


def _named(prefix: str, record: Record) -> Record:
    return {f"{prefix}_{name}": value for name, value in record.items()}
