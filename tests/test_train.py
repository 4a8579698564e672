import json
import os
import signal
import subprocess
import sys

import harness
import jax
import numpy as np
import optax
import pytest

from experiments import devices, evaluate, feeds, step, train
from experiments.augment import Normalisation
from experiments.errors import NotFinite
from experiments.losses import classification
from experiments.runs import open_run

DATA = harness.images()
STEPS = harness.RECIPE.steps(len(DATA.train_images))

pytestmark = pytest.mark.xdist_group("train")  # one set of runs for all tests


@pytest.fixture(scope="module", autouse=True)
def compile_once():
    """The same programs are compiled again and again here: keep all of them."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    yield
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def fit(tmp_path=None, *, every=1e9, tx=None, recipe=harness.RECIPE, **kwargs):
    arguments = (
        harness.NETWORK,
        harness.variables(),
        tx or harness.sgd(),
        DATA,
        recipe,
    )
    if tmp_path is None:
        return train.fit(*arguments, **kwargs)
    with open_run(tmp_path / "run", recipe, checkpoint_every=every) as run:
        return train.fit(*arguments, run=run, name="dense", **kwargs)


def metrics(tmp_path):
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return fit(folder), metrics(folder)


def test_learns_and_logs(unbroken):
    fitted, lines = unbroken
    assert fitted.result["test_accuracy"] > 0.9
    assert [r["step"] for r in lines] == [2, 4, 6, 8, 10, 12]
    assert [r["epoch"] for r in lines if "test_accuracy" in r] == [1, 2, 3]
    assert lines[-1]["loss"] < lines[0]["loss"]


class Breaks:
    """A progress display during which something happens at a step."""

    def __init__(self, at, action):
        self.at, self.action = at, action

    def start(self, *args):
        pass

    def skip(self, phase):
        pass

    def epoch(self, record):
        pass

    def show(self, record, images_per_second):
        if record["step"] == self.at:
            self.action()


def _crash():
    raise RuntimeError("power cut")


@pytest.mark.parametrize(
    ("kind", "at"), [("Ctrl-C", 1), ("Ctrl-C", 4), ("SIGTERM", 6), ("killed", 5)]
)
def test_broken_and_resumed_run_equals_unbroken(kind, at, unbroken, tmp_path):
    if kind == "killed":
        breaks, error, every = Breaks(at, _crash), RuntimeError, 0.0
    else:
        number = signal.SIGINT if kind == "Ctrl-C" else signal.SIGTERM
        breaks = Breaks(at, lambda: signal.raise_signal(number))
        error, every = KeyboardInterrupt, 1e9
    with pytest.raises(error):
        fit(tmp_path, every=every, progress=breaks)
    steps = (tmp_path / "run/phases/dense/checkpoints").iterdir()
    saved = max((int(p.name) for p in steps), default=0)
    assert at - 1 <= saved <= at + 1
    again = fit(tmp_path, every=every)
    assert harness.equal(again, unbroken[0])
    assert metrics(tmp_path) == unbroken[1]


def test_finished_phase_is_loaded(unbroken, tmp_path):
    first = fit(tmp_path)
    never = Breaks(STEPS, _crash)
    again = fit(tmp_path, progress=never)
    assert harness.equal(again, first)
    assert again.result == first.result


def test_leaves_its_arguments_alone():
    variables, tx = harness.variables(), harness.sgd()
    recipe = train.Recipe(epochs=1, batch_size=16)
    opt_state = tx.init(variables["params"])
    for _ in range(2):
        train.fit(harness.NETWORK, variables, tx, DATA, recipe, opt_state=opt_state)
    assert harness.equal(variables, harness.variables())


@pytest.mark.parametrize("of", ["the gradient", "the update"])
def test_nan_names_the_step_and_keeps_the_last_good_checkpoint(tmp_path, of):
    def sgd_with(scale):
        links = [optax.scale_by_schedule(scale), harness.sgd()]
        return optax.chain(*(links if of == "the gradient" else reversed(links)))

    nan_at_7 = sgd_with(lambda n: np.float32(1) + (n >= 6) * np.nan)
    with pytest.raises(NotFinite, match=r"at step 7 of 12; checkpoint of step 6 kept"):
        fit(tmp_path, every=0.0, tx=nan_at_7)
    steps = (tmp_path / "run/phases/dense/checkpoints").iterdir()
    assert max(int(p.name) for p in steps) == 6
    assert all(np.isfinite(r["loss"]) for r in metrics(tmp_path))
    # The kept checkpoint is good: with a healthy optimizer the run goes on from it.
    healthy = sgd_with(lambda n: 1.0)
    assert np.isfinite(fit(tmp_path, tx=healthy).result["loss"])


KEY = jax.random.key(0)
FEED = feeds.Resident(
    DATA, harness.RECIPE, devices.Placement(None, None), feeds.Keys(KEY, KEY)
)


def _step(**changes):
    made = step.Step(
        network=harness.NETWORK,
        tx=harness.sgd(),
        loss=classification(),
        read=FEED.read,
        batch_size=16,
        average_from=2,
        eval_params=lambda opt_state, params: params,
        observe=lambda opt_state, params: {"seen": optax.tree.norm(params)},
        fused=False,
    )
    return made._replace(**changes)


def _advance(made, counts):
    variables = harness.variables()
    average = jax.tree.map(jax.numpy.copy, variables["params"])
    opt_state = made.tx.init(variables["params"])
    state = step.initial(variables, opt_state, average=average)
    advance, first, seen = step.make_advance(made), 0, []
    for count in counts:
        state, report = advance(state, FEED.fetch(first), KEY, first, count, px=6)
        first += count
        seen.append(jax.device_get((state, report)))
    return seen


def test_many_updates_in_one_dispatch_are_the_same_updates():
    one_by_one = _advance(_step(), [1, 1, 1, 1])[-1]
    fused = _advance(_step(fused=True), [1, 3])[-1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5), one_by_one, fused)


def test_average_is_the_mean_over_the_last_part():
    states = [state for state, _ in _advance(_step(), [1, 1, 1, 1])]
    kernels = [s.params["Dense_0"]["kernel"] for s in states]
    mean = states[-1].average["Dense_0"]["kernel"]
    np.testing.assert_allclose(mean, np.mean(kernels[2:], axis=0), 1e-6)


def test_an_epoch_shows_every_image_once():
    key = jax.random.key(3)
    first, second = (np.asarray(feeds.shuffled(key, e, 70)) for e in (0, 1))
    assert sorted(first) == sorted(second) == list(range(70))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, feeds.shuffled(key, 0, 70))


def test_evaluation_counts_every_image_once():
    variables = harness.variables()
    by = Normalisation(DATA.mean, DATA.std)
    examples = step.Examples(DATA.test_images, DATA.test_labels)
    inputs = (DATA.test_images / 255 - by.mean) / by.std
    logits = harness.NETWORK.predict(variables, inputs.astype(np.float32))
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, DATA.test_labels)
    expected = {
        "loss": float(np.mean(losses)),
        "accuracy": float(np.mean(np.argmax(logits, -1) == DATA.test_labels)),
    }
    for batch_size in (10, 37, 500):
        run = evaluate.make_evaluate(harness.NETWORK.predict, by, batch_size=batch_size)
        assert run(variables, examples) == pytest.approx(expected, rel=1e-5)


def test_statistics_are_the_mean_of_the_batches():
    batches = [np.full((4, 6, 6, 1), value, np.float32) for value in (1, 2, 6)]
    new = evaluate.estimate_statistics(harness.NETWORK, harness.variables(), batches)
    np.testing.assert_allclose(new["batch_stats"]["mean"], [3.0], rtol=1e-6)


def test_batch_larger_than_the_data():
    with pytest.raises(ValueError, match="batch_size 128 is more than the 70 images"):
        fit(recipe=train.Recipe(epochs=1))


EIGHT_DEVICES = """
import harness, jax, numpy as np
from experiments.train import Recipe, fit
assert jax.device_count() == 8
arguments = harness.NETWORK, harness.variables(), harness.sgd(), harness.images()
recipe = Recipe(epochs=2, batch_size=16, crop=0)
one, eight = (fit(*arguments, recipe, devices=jax.devices()[:n]) for n in (1, 8))
assert len(eight.trained["params"]["Dense_0"]["kernel"].sharding.device_set) == 8
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6), one, eight)
"""


def test_eight_devices_give_the_same_numbers(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    here = os.path.dirname(__file__)
    path = {"PYTHONPATH": os.pathsep.join([here, os.path.dirname(here)])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", EIGHT_DEVICES],
        env={**os.environ, **flags, **path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
