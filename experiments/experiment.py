"""What the branches of a run share: config, data, run folder, networks, training."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.augment import normalisation, normalise
from experiments.config import Config
from experiments.data import Dataset, Stream
from experiments.evaluate import make_evaluate
from experiments.feeds import held_out
from experiments.losses import classification, head_weights
from experiments.methods import Method
from experiments.networks import Network, Variables, initialise, linen
from experiments.progress import Progress
from experiments.reported import Reported
from experiments.runs import Run
from experiments.train import Fitted, Recipe, fit
from jaxprune.types import Predicate


class Architecture(NamedTuple):
    """A family of networks.

    Attributes:
      name: for titles and artefacts.
      build: `build(classes=, width=, aux_at=)`, a Linen module.
      depth: number of blocks, for the weights of auxiliary classifiers.
      prunable: the weights that stepwise pruning may take.
    """

    name: str
    build: Callable[..., Any]
    depth: int
    prunable: Predicate


@dataclass
class Experiment:
    """What the branches share: config, data, run folder, progress, papers' results."""

    config: Config
    architecture: Architecture
    dataset: Dataset | Stream
    run: Run
    progress: Progress
    reported: tuple[Reported, ...] = ()

    @cached_property
    def network(self) -> Network:
        """With auxiliary classifiers in training."""
        return linen(self._model(self.config.aux_at))

    @cached_property
    def headless(self) -> Network:
        """Without auxiliary classifiers: what is pruned, counted and shipped."""
        return linen(self._model(()))

    def initial(self) -> Variables:
        """New weights, from the seed."""
        model = self._model(self.config.aux_at)
        return initialise(model, jax.random.key(self.config.seed), self.example)

    @property
    def shapes(self) -> Variables:
        """Shapes and dtypes of the weights."""
        model = self._model(self.config.aux_at)
        return jax.eval_shape(model.init, jax.random.key(0), self.example)

    @property
    def example(self) -> jax.Array:
        """One normalised image, as a batch."""
        return self.inputs(self.dataset.example)

    def inputs(self, images: np.ndarray) -> jax.Array:
        return normalise(jnp.asarray(images), normalisation(self.dataset))

    @property
    def test_batches(self) -> Iterator[jax.Array]:
        """The test images, normalised, batch by batch."""
        batches = self.dataset.test_batches()
        return (self.inputs(images[labels >= 0]) for images, labels in batches)

    def accuracy(self, network: Network, variables: Variables) -> float:
        """Share of the test images classified right."""
        evaluate = make_evaluate(network.predict, normalisation(self.dataset))
        return evaluate(variables, held_out(self.dataset))["accuracy"]

    def steps(self, epochs: int) -> int:
        return self.recipe(epochs).steps(self.dataset.train_count)

    def recipe(self, epochs: int, **fields: Any) -> Recipe:
        config = self.config
        given = {
            "batch_size": config.batch_size,
            "small_epochs": int(config.small_share * epochs),
            "small_size": 3 * self.dataset.size // 4,
            "average_last": config.average_last,
            "seed": config.seed,
        }
        return Recipe(epochs=epochs, **{**given, **fields})

    @property
    def branch_epochs(self) -> int:
        """Epochs of each branch: those of the dense network too if from scratch."""
        config = self.config
        return config.prune_epochs + (config.start == "scratch") * config.epochs

    @property
    def branch_peak(self) -> float:
        """Peak learning rate of each branch."""
        config = self.config
        scratch = config.start == "scratch"
        return config.learning_rate if scratch else config.prune_learning_rate

    @property
    def finetune_epochs(self) -> int:
        """Epochs of the compact network, the last ones of its branch."""
        return self.config.prune_epochs - self.config.sparsify_epochs

    def fit(
        self,
        name: str,
        network: Network,
        variables: Variables,
        method: Method,
        recipe: Recipe,
        **options: Any,
    ) -> Fitted:
        """One phase of the run; auxiliary classifiers count if the network has any."""
        heads = self.config.aux_at if network is self.network else ()
        return fit(
            network,
            variables,
            method.tx,
            self.dataset,
            recipe,
            loss=classification(
                self.config.label_smoothing,
                head_weights(heads, self.architecture.depth),
            ),
            eval_params=method.eval_params,
            observe=method.observe,
            run=self.run,
            name=name,
            progress=self.progress,
            **options,
        )

    def _model(self, aux_at: tuple[int, ...]) -> Any:
        return self.architecture.build(
            classes=self.dataset.classes, width=self.config.width, aux_at=aux_at
        )
