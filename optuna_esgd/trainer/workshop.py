"""Where slots are worked off: births made, cohorts trained, offspring scored, outcomes packed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from optuna_esgd.engine.auditions import candidates
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.genome.codec import encode
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.operators import ClusterSuppression, Diversity, Mutation
from optuna_esgd.species.base import Species
from optuna_esgd.trainer.auditions import Auditions
from optuna_esgd.trainer.batched import BatchedTraining, score_batched
from optuna_esgd.trainer.batched_model import (
    BatchedModel,
    copied,
    why_not_batched,
    why_not_together,
)
from optuna_esgd.trainer.births import Births, offspring_outcomes, snapshot_row
from optuna_esgd.trainer.compiled_step import CompiledSteps
from optuna_esgd.trainer.diversity import coupled, suppress
from optuna_esgd.trainer.native_model import NativeModel
from optuna_esgd.trainer.preemption import Checkpoints
from optuna_esgd.trainer.progress import Progress
from optuna_esgd.trainer.rows import RowTraining, score_rows
from optuna_esgd.trainer.seeding import build_seeded, seeded
from optuna_esgd.trainer.sgd import Training, run_sgd_step
from optuna_esgd.trainer.spaces import join_spaces
from optuna_esgd.trainer.step_mean import split_state
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import Task

Tensors = dict[str, Tensor]

_logger = logging.getLogger(__name__)


class TaskWorkshop:
    """Works off the slots of a task, batched where the model allows it.

    Args:
        task: What is trained.
        configuration: The run's settings.
        species: By name.
        births: Makes the starting points.
        layout: The model's layout.
        device: Where to train.
        mutation: What ``births`` mutates offspring with, for its cost; None for Gaussian noise.
        diversity: What keeps a cohort apart or together; None for nothing.

    Attributes:
        births: As given.
        trains_batched: Whether the rows of a cohort train as one computation.
        worker_name: By which name slots are claimed for this workshop, so that it need not read
            again what was stored under it; None where nothing is stored.
    """

    def __init__(
        self,
        task: Task,
        configuration: Configuration,
        species: Mapping[str, Species],
        births: Births,
        layout: Layout,
        device: torch.device,
        mutation: Mutation | None = None,
        diversity: Diversity | None = None,
    ) -> None:
        self._task = task
        self._configuration = configuration
        self._species = species
        self._spaces = join_spaces(species, task)
        self.births = births
        self._layout = layout
        self._device = device
        self._mutation = mutation
        self._diversity = diversity
        self.worker_name: Callable[[], str] | None = None
        self._scoring_model: nn.Module | None = None
        self._batched_model: BatchedModel | None = None
        self.trains_batched = self._scores_batched = False
        self._steps: CompiledSteps | None = None
        if configuration.backend in ("batched", "compiled", "native"):
            self._try_batched()

    def begin(self, individuals: Sequence[Individual]) -> tuple[list[Individual], Training]:
        """Put a cohort at its birth: who is in which row, and the training of these rows."""
        return self._begin(individuals)[:2]

    def _begin(
        self, individuals: Sequence[Individual]
    ) -> tuple[list[Individual], Training, list[Tensors]]:
        """As ``begin``, and how far from its birth the training of each row begins."""
        # Rows of one species lie side by side, so that its rule works on a slice; and so do all
        # rows that share a backward pass.
        ordered = sorted(
            individuals,
            key=lambda one: (
                self._species[one.species].needs_closure,
                one.species,
                one.reference.number,
            ),
        )
        carried = [split_state(self.births.optimizer_state(one)) for one in ordered]
        states, ahead = [state for state, _ in carried], [tensors for _, tensors in carried]
        training = self._training(ordered, self.births.weights(ordered), states)
        return ordered, coupled(training, self._diversity), ahead

    def train(self, individuals: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        """Run the SGD step of a cohort."""
        generation = individuals[0].reference.generation
        if generation == 0 and self._configuration.n_auditions > 1:
            outcomes = self._audition(individuals, checkpoints)
        else:
            outcomes = self._train(individuals, checkpoints, self._configuration.n_epochs)
        if self.worker_name is not None:
            self.births.remember(generation, outcomes, worker=self.worker_name())
        return outcomes

    def _audition(self, founders: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        """Let founders try one set of species and hyperparameters after the other."""
        n_auditions = self._configuration.n_auditions
        auditions = Auditions(checkpoints)
        for number in range(auditions.n_held, n_auditions):
            trying = candidates(founders, self._configuration, self._spaces, audition=number)
            trying = [auditions.introduce(one) for one in trying]
            n_epochs = self._configuration.n_epochs // n_auditions
            auditions.hold(trying, self._train(trying, auditions, n_epochs))
            if number + 1 < n_auditions:
                auditions.pause()
        return auditions.outcomes

    def _train(
        self, individuals: Sequence[Individual], checkpoints: Checkpoints, n_epochs: int
    ) -> list[Outcome]:
        """Train a cohort from its birth on, for the first so many of the K_s epochs."""
        ordered, training, ahead = self._begin(individuals)
        weights = training.weights
        births = weights.clone() if isinstance(self._diversity, ClusterSuppression) else None
        progress, left = run_sgd_step(
            training, ordered, self._configuration, checkpoints, ahead, n_epochs=n_epochs
        )
        if self._configuration.inherit_optimizer_state:
            ends = [
                {**training.optimizer_state(row), **left.get(row, {})}
                for row in range(len(ordered))
            ]
        else:
            ends = [{} for _ in ordered]
        if isinstance(self._diversity, ClusterSuppression) and births is not None:
            for row in suppress(self._diversity, births, weights, progress):
                ends[row] = self.births.optimizer_state(ordered[row])
        return [
            _outcome(one, progress[row], snapshot_row(weights, row), ends[row])
            for row, one in enumerate(ordered)
        ]

    def evaluate(self, offspring: Sequence[Individual], *, best_fitness: float) -> list[Outcome]:
        """Breed a cohort of offspring and score them.

        Only fitness is kept, and the weights of one that beats everyone; see
        ``offspring_outcomes``.
        """
        weights = self.births.weights(offspring)
        scores = self.score(weights)
        return offspring_outcomes(offspring, scores, best_fitness, weights, self._mutation)

    def breed(self, offspring: Individual) -> Snapshot:
        """The weights of an offspring, or of any birth."""
        return snapshot_row(self.births.weights([offspring]), 0)

    def keep_births(self, individuals: Sequence[Individual]) -> list[Outcome]:
        """Let the birth weights stand."""
        return self.births.stand(individuals, self.score)

    def score(self, weights: Matrix) -> list[float]:
        """Fitness of every row, lower is better, inf = diverged."""
        if self._scores_batched and self._batched_model is not None:
            assert isinstance(self._task, SupervisedTask)  # noqa: S101  (set only for those)
            return score_batched(self._task, self._batched_model, self._configuration, weights)
        if self._scoring_model is None:
            self._scoring_model = build_seeded(self._task, self._configuration, self._device)
        return score_rows(self._task, self._configuration, [self._scoring_model], weights)

    def _training(
        self,
        individuals: Sequence[Individual],
        weights: Matrix,
        states: Sequence[Tensors],
    ) -> Training:
        if self.trains_batched and self._batched_model is not None:
            assert isinstance(self._task, SupervisedTask)  # noqa: S101  (set only for those)
            return BatchedTraining(
                self._task,
                self._batched_model,
                self._configuration,
                self._species,
                individuals,
                weights,
                states,
                self.score,
                self._steps,
            )
        return RowTraining(
            self._task, self._configuration, self._species, individuals, weights, states
        )

    def _try_batched(self) -> None:
        """Find out once whether the model can be batched; say why not."""
        task = self._task
        if not isinstance(task, SupervisedTask):
            if self._configuration.backend != "batched":
                _logger.warning("Only a SupervisedTask can be compiled; rows train one by one.")
            return
        model = build_seeded(task, self._configuration, self._device)
        with seeded(self._configuration.seed):
            self._batched_model = copied(task, model, self._device)
            training, evaluation = why_not_batched(
                task, self._batched_model, self._layout, self._device
            )
        training = training or why_not_together(self._species)
        self.trains_batched, self._scores_batched = training is None, evaluation is None
        for what, reason in (("trains", training), ("is scored", evaluation)):
            if reason is not None:
                _logger.warning("The model %s row by row, not batched: %s.", what, reason)
        if self._configuration.backend == "native" and self.trains_batched:
            self._batched_model = self._native_model(task, model)
        if self._configuration.backend == "compiled" and self.trains_batched:
            assert self._batched_model is not None  # noqa: S101  (else it would not)
            self._steps = CompiledSteps(
                task, self._batched_model, self._layout, self._species, self._device
            )

    def _native_model(self, task: SupervisedTask, model: nn.Module) -> NativeModel:
        """With kernels for what they can be written for; says why not for the rest."""
        native = NativeModel(task, model, self._layout, self._device)
        training, scoring = native.why_not_trained, native.why_not_scored
        reasons = {"train": training, "are scored": scoring}
        if training == scoring:
            reasons = {"train and are scored": training}
        for what, reason in reasons.items():
            if reason is not None:
                _logger.warning(
                    "Networks %s batched, not by a kernel in C, which may differ in rounding from "
                    "workers that have one: %s.",
                    what,
                    reason,
                )
        return native


def _outcome(
    individual: Individual, done: Progress, weights: Snapshot, state: Mapping[str, Tensor]
) -> Outcome:
    """How an individual's SGD step ended."""
    return Outcome(
        number=individual.reference.number,
        fitness=done.fitness,
        weights=weights,
        optimizer_state=Snapshot(*encode(state)) if state else None,
        birth_fitness=done.birth_fitness if individual.birth_fitness is None else None,
        n_back_offs=done.n_back_offs,
        n_epochs=done.n_epochs,
        n_gradients=done.n_gradients,
        n_forwards=done.n_forwards,
        n_evaluations=done.n_evaluations,
    )
