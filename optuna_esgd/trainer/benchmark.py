"""A task to compare methods on: what is trained, a test set kept apart, and a budget."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import xxhash
from torch import nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.genome.layout import Layout
from optuna_esgd.species.base import Species
from optuna_esgd.species.registry import fixed_species
from optuna_esgd.trainer.direction import is_better_high
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.examples import ExampleSet
from optuna_esgd.trainer.held_out import HeldOut, Test, ask_test
from optuna_esgd.trainer.seeding import seeded
from optuna_esgd.trainer.supervised import SupervisedTask, name_of
from optuna_esgd.trainer.task import Task

# Of what a study remembers of its task: what all seeds have in common, and what belongs to one.
_CRITERIA = ("loss", "metric", "precision", "schedule", "batches")
_EXAMPLES = ("training data", "validation data")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that somebody who knows the task would give one network.

    Attributes:
        optimizer: A ``torch.optim`` class.
        settings: Its keyword arguments, the learning rate among them.
        schedule: What the learning rate does from the first epoch to the last: ``"cosine"``
            anneals it towards 0, ``"constant"`` leaves it.
    """

    optimizer: type[torch.optim.Optimizer]
    settings: Mapping[str, Any]
    schedule: Literal["cosine", "constant"] = "cosine"

    def prepare(
        self, model: nn.Module, n_epochs: int
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """An optimizer for a model, and its schedule, to be stepped after each epoch."""
        if n_epochs < 1:
            raise ConfigurationError(f"n_epochs must be at least 1, got {n_epochs}.")
        optimizer = self.optimizer(model.parameters(), **self.settings)
        if self.schedule == "cosine":
            return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One seed of a task that methods are compared on.

    A function ``(seed: int) -> Benchmark`` is one row of a comparison. The seed draws what belongs
    to the task (split, label noise); methods get seeds of their own. Whatever a method looks at
    while it trains and chooses is in ``task``; ``test`` is asked once per method and seed, for
    the one model it chose, and, so that it fails before training or not at all, for a new one.

    Attributes:
        task: What is trained; its fitness is minimised.
        test: Scores of a model on what no method has seen, by name, such as ``HeldOut``. The
            first is the headline; lower is better.
        recipe: For the arm that trains one network without any search.
        species: What evolves; also the space of the arms that search.
        population_size: Individuals, μ.
        n_epochs: Epochs per individual and generation.
        n_generations: Generations.
    """

    task: Task
    test: Test
    recipe: Recipe
    species: Sequence[Species | str | type[torch.optim.Optimizer]] = ("SGD", "Adam")
    population_size: int = 16
    n_epochs: int = 4
    n_generations: int = 6

    def __post_init__(self) -> None:
        """Refuse a metric that is better the higher it is, as far as its name says so."""
        metric = self.task.metric if isinstance(self.task, SupervisedTask) else None
        if metric is not None and is_better_high(name_of(metric)):
            raise ConfigurationError(
                f"Methods are compared by a fitness that is minimised, but {name_of(metric)} is "
                "better the higher it is. Leave out metric, for the loss, or return 1 - value by "
                "another name, such as error."
            )

    def trainer(
        self,
        *,
        cohort_size: int | None = None,
        device: str | torch.device | None = None,
        is_by_recipe: bool = False,
    ) -> ESGDTrainer:
        """The objective that trains a population on the task.

        Args:
            cohort_size: See ``ESGDTrainer``.
            device: See ``ESGDTrainer``.
            is_by_recipe: Whether everybody trains with the recipe's optimizer and settings instead
                of the species.
        """
        species = self.species
        if is_by_recipe:
            species = [fixed_species(self.recipe.optimizer, self.recipe.settings)]
        return ESGDTrainer(self.task, species=species, cohort_size=cohort_size, device=device)

    def scores(self, model: nn.Module) -> dict[str, float]:
        """What ``test`` says of a model.

        Raises:
            TaskError: Something else than numbers by name.
        """
        return ask_test(self.test, model)

    def check(self, device: str | torch.device | None = None) -> None:
        """Score a new network, and look at the recipe, before anything is trained.

        Args:
            device: Where the network is to be; see ``ESGDTrainer``.

        Raises:
            TaskError: See ``scores``.
            ConfigurationError: The optimizer of the recipe does not take its settings.
        """
        trainer = self.trainer(device=device, is_by_recipe=True)
        with seeded(0):
            self.scores(self.task.build_model().to(trainer.device))

    def describe(self) -> dict[str, Any]:
        """What the benchmarks of all seeds have in common, in words and numbers."""
        described = self.task.describe()
        with seeded(0):
            model = self.task.build_model()
        # Functions show where they lie in memory.
        text = re.sub("0x[0-9a-fA-F]+", "", str(model))
        return {
            "population_size": self.population_size,
            "n_epochs": self.n_epochs,
            "n_generations": self.n_generations,
            "species": {name: repr(one) for name, one in self.trainer().species.items()},
            "recipe": repr(self.recipe),
            "tensors": {one.name: list(one.shape) for one in Layout.of(model).entries},
            "model": xxhash.xxh3_64_hexdigest(text.encode()),
            # Older files do not name all of them, and only what both name is compared.
            **{name: described.get(name, "none") for name in _CRITERIA},
        }

    def describe_examples(self) -> dict[str, str]:
        """What belongs to this seed: examples by number and digest, as far as they are tensors."""
        described = self.task.describe()
        found = {name: described[name] for name in _EXAMPLES if name in described}
        if isinstance(self.test, HeldOut):
            test: Any = self.test.examples
            if not isinstance(test, ExampleSet):
                test = ExampleSet.of(test, batch_size=1, name="test")
            found["test data"] = test.describe()
        return found

    @property
    def n_trials(self) -> int:
        """Trials of the reference budget, one per individual and generation."""
        return self.population_size * self.n_generations

    @property
    def n_epochs_each(self) -> int:
        """Epochs of one individual from the first generation to the last."""
        return self.n_epochs * self.n_generations
