"""``with esgd.sgd_step(trial, model, evaluate)``: ESGD inside an objective people already have."""

from __future__ import annotations

import contextlib
import copy
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import optuna
import torch
from optuna.trial import Trial
from torch import nn

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import explore_nothing
from optuna_esgd.engine.individual import Claim, Individual
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.errors import ConfigurationError, StudyError, TaskError
from optuna_esgd.evolution.annealing import rate_factor
from optuna_esgd.evolution.back_off import BackOffRule
from optuna_esgd.genome.codec import encode
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.species.state import flatten_state, restore_state
from optuna_esgd.store.opening import open_population
from optuna_esgd.trainer.births import Births, offspring_outcomes, snapshot_row
from optuna_esgd.trainer.faces import check_has_study, find_sampler
from optuna_esgd.trainer.iterate_mean import IterateMean
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.preemption import Checkpoints
from optuna_esgd.trainer.progress import Progress
from optuna_esgd.trainer.rates import scaled_rates
from optuna_esgd.trainer.seeding import seeded
from optuna_esgd.trainer.show import attributes, replace_trial
from optuna_esgd.trainer.spending import Spending, counted
from optuna_esgd.trainer.step_mean import StepMean, Tensors, ahead_of, go_ahead, split_state
from optuna_esgd.trainer.task import check_fitness, evaluation_mode, shown_value
from optuna_esgd.trainer.user_code import in_words

_logger = logging.getLogger(__name__)

Evaluate = Callable[[Any], Any]


def sgd_step(
    trial: Trial,
    model: nn.Module,
    evaluate: Callable[[Any], Any],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    calibrate: Callable[[Any], None] | None = None,
    store: str | None = None,
) -> SgdStep:
    """Make a trial's training one SGD step of an individual of the study's population.

    On entry the model gets the weights the individual is born with; on exit it has the best
    weights visited (see ``back_off``), which are stored with their fitness. In generation 0 the
    weights the model comes with are the birth.

    Example:
        >>> def objective(trial):
        ...     lr = trial.suggest_float("lr", 1e-3, 1e-1, log=True)
        ...     model = build_model()
        ...     optimizer = torch.optim.SGD(model.parameters(), lr)
        ...     with esgd.sgd_step(trial, model, evaluate, optimizer=optimizer) as step:
        ...         for _ in step.epochs():
        ...             train_one_epoch(model, optimizer)
        ...     return step.fitness

    Args:
        trial: The running trial; its study has an ``ESGDSampler``.
        model: On the device it trains on.
        evaluate: ``evaluate(model)`` gives the fitness in the study's direction. Deterministic;
            it is called in evaluation mode, without gradients, also for bred weights.
        optimizer: Give it to have its state (momentum, ...) inherited too.
        calibrate: ``calibrate(model)`` re-estimates batch-norm statistics of bred weights.
        store: Database URL for weights; the study's own database if None.

    Raises:
        StudyError: The trial is of no study, such as a ``FixedTrial``.
        ConfigurationError: Once the block begins: the sampler's ``n_auditions`` is more than 1.
    """
    check_has_study(trial, "sgd_step")
    return SgdStep(trial, model, evaluate, optimizer=optimizer, calibrate=calibrate, store=store)


class SgdStep:
    """The context ``sgd_step`` opens.

    Attributes:
        generation: Which generation the individual belongs to.
        birth: founder, elite, survivor or recombination.
    """

    def __init__(
        self,
        trial: Trial,
        model: nn.Module,
        evaluate: Evaluate,
        *,
        optimizer: torch.optim.Optimizer | None,
        calibrate: Callable[[Any], None] | None,
        store: str | None,
    ) -> None:
        self._trial = trial
        self._model = model
        self._evaluate = evaluate
        self._optimizer = optimizer
        self._calibrate = calibrate
        self._store = store
        self._stack = contextlib.ExitStack()
        self._is_open = False
        self._n_epochs = 0
        self._n_evaluations = 0
        self._is_scored = False
        self._fitness: float | None = None

    @property
    def fitness(self) -> float:
        """The fitness to return from the objective, in its direction; known after the block."""
        if self._fitness is None:
            raise StudyError(
                "The fitness of an SGD step is known after its block: write `return step.fitness` "
                "below `with esgd.sgd_step(...) as step:`, not inside."
            )
        return self._fitness

    def __enter__(self) -> Self:
        """Claim an individual, and give the model its birth weights."""
        study = self._trial.study
        sampler = find_sampler(study)
        if sampler.settings.n_auditions not in (None, 1):
            raise ConfigurationError(
                "n_auditions is for an ESGDTrainer, which knows its species; an objective with "
                "sgd_step trains once, so it must be 1 or None, got "
                f"{sampler.settings.n_auditions!r}."
            )
        if self._trial.number == 0:  # not after a whole generation has been trained
            _copied(self._model)
        self._population, self._configuration = open_population(
            study, sampler.settings, cohort_size=1, store=self._store
        )
        self._layout = Layout.of(self._model)
        self._population.check_layout(self._layout.to_json())
        self._births = Births(
            self._population,
            self._configuration,
            layout=self._layout,
            build_model=lambda: _copied(self._model),
            calibrate=self._calibrate or (lambda _model: None),
            anchor=None,
            device=self._device,
        )
        workshop = ObjectiveWorkshop(
            self._births, self._model, self._evaluate, self._configuration
        )
        self._loop = WorkLoop(self._population, self._configuration, explore_nothing, workshop)
        if self._population.individual_of_trial(self._trial.number) is not None:
            raise StudyError(
                f"Trial {self._trial.number} has had its SGD step: a trial is one individual. "
                "Use sgd_step once per trial, with as many epochs as needed."
            )
        self._held_slots = sampler.held_slots
        held = self._held_slots.hold(study, self._trial.number, loop=self._loop)
        self._claim: Claim = held.claim
        self._individual: Individual = held.individual
        self.generation = self._individual.reference.generation
        self.birth = self._individual.birth
        try:
            self._begin(held.ancestor)
        except BaseException as error:
            self._give_up(error)
            raise
        self._is_open = True
        return self

    def epochs(self, n_epochs: int | None = None) -> Iterator[int]:
        """Count epochs of training; after each one the fitness is measured, with back-off.

        Args:
            n_epochs: How many; the sampler's ``n_epochs`` if None.
        """
        if not self._is_open:
            raise StudyError(
                "An SGD step begins and ends with its block: write `with esgd.sgd_step(...) as "
                "step:` and loop over step.epochs() inside."
            )
        n_epochs = self._configuration.n_epochs if n_epochs is None else n_epochs
        for number in range(n_epochs):
            self._is_scored = False
            if self._mean is not None:
                self._mean.begin()
            with self._annealed(number, n_epochs):
                yield number
            self._end_epoch(is_last=number + 1 == n_epochs)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Store the individual, then do the evolution step if it was its generation's last."""
        self._is_open = False
        if error is not None:
            if isinstance(error, optuna.TrialPruned):
                _logger.warning(
                    "Trial %d was pruned within its SGD step, so another trial trains the same "
                    "individual again. A population needs no pruner: selection takes its place.",
                    self._trial.number,
                )
            self._give_up(error)
            return
        try:
            if not self._is_scored:  # no epochs() at all, or left in the middle of one
                self._end_epoch(is_last=True)
            self._weights.load_into(self._model, 0)
            outcome = self._outcome()
        except BaseException as failure:
            self._give_up(failure)
            raise
        is_finished = self._population.finish(self._claim, [outcome])
        self._end()
        if not is_finished:
            reason = (
                f"The lease on individual {self._individual.reference} ran out during training, "
                "and another worker has it now; this result is dropped. Raise lease_seconds if "
                "this happens often."
            )
            replace_trial(self._trial, find_sampler(self._trial.study), reason)
            raise optuna.TrialPruned(reason)
        self._population.bind_trial(self._individual.reference, self._trial.number)
        self._show()
        try:
            with self._held_slots.claiming():
                self._loop.finish_generation()
        except Exception:
            # This trial's individual is safe; its slot was given back, and others will try again.
            _logger.exception("The evolution step failed; the next trial tries it again.")

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _begin(self, ancestor: Individual | None) -> None:
        self._weights = Matrix.zeros(self._layout, 1, self._device)
        if self._individual.birth == "founder":
            self._weights.take_from(self._model, 0)
        else:
            self._weights = self._births.weights([self._individual])
            self._weights.load_into(self._model, 0)
        self._kept_state: dict[str, torch.Tensor] = {}
        self._spending = Spending()
        self._mean: IterateMean | None = None
        self._step_mean: StepMean | None = None
        self._ahead: Tensors = {}
        ahead: Tensors = {}
        if self._optimizer is not None:
            ahead = self._inherit_state(self._optimizer, ancestor)
            self._spending = self._stack.enter_context(counted(self._optimizer))
            self._kept_state = flatten_state(self._optimizer)
            if self._configuration.average_iterates:
                self._mean = IterateMean(self._weights)
                self._step_mean = StepMean() if self._configuration.average_steps else None
                self._stack.enter_context(
                    self._mean.following(self._model, self._optimizer, row=0)
                )
        birth_fitness = self._individual.birth_fitness
        self._birth_fitness = self._score(self._model) if birth_fitness is None else birth_fitness
        self._rule = BackOffRule(self._configuration.back_off, self._birth_fitness)
        self._progress = Progress(self._birth_fitness)
        here = self._weights.clone()
        if go_ahead(here, [ahead]):
            here.load_into(self._model, 0)

    def _inherit_state(
        self, optimizer: torch.optim.Optimizer, ancestor: Individual | None
    ) -> Tensors:
        """Only the state: learning rates and the like stay those of this trial.

        Returns:
            How far from its birth weights training begins, see ``trainer.step_mean``.
        """
        if (
            not self._configuration.inherit_optimizer_state
            or ancestor is None
            or ancestor.species != type(optimizer).__name__
        ):
            return {}
        state, ahead = split_state(self._births.read_optimizer_state(ancestor.reference))
        restore_state(optimizer, state)
        return ahead

    def _end_epoch(self, *, is_last: bool) -> None:
        self._n_epochs += 1
        self._ahead = {}  # of an earlier loop over epochs
        self._is_scored = self._rule.is_scored(is_last_epoch=is_last)
        if not self._is_scored:
            return
        fitness = [self._score(self._model)]
        here = Matrix.zeros(self._layout, 1, self._device)
        here.take_from(self._model, 0)
        points = [here]
        if self._mean is not None:
            points.append(self._mean.read(here))
            longer = None if self._step_mean is None else self._step_mean.add(points[1])
            points += [] if longer is None else [longer]
            for mean in points[1:]:
                mean.load_into(self._model, 0)
                fitness.append(self._score(self._model))
            here.load_into(self._model, 0)
        kept = self._rule.keep_fittest(*fitness)
        if kept is not None:
            self._weights = points[kept]
            if self._optimizer is not None:
                self._kept_state = flatten_state(self._optimizer)
        is_at_mean = kept is not None and kept > 0 and is_last
        if self._rule.must_restore(kept=kept is not None, is_last_epoch=is_last) or is_at_mean:
            if self._step_mean is not None and (
                is_at_mean or self._progress.gets_better(fitness[-1])
            ):
                self._ahead = ahead_of(self._weights, here, [0]).get(0, {})
            self._weights.load_into(self._model, 0)
            if self._optimizer is not None:
                self._optimizer.state.clear()
                restore_state(self._optimizer, self._kept_state)
        if len(points) == 2:
            self._progress.first_mean = fitness[-1]

    def _annealed(self, number: int, n_epochs: int) -> contextlib.AbstractContextManager[None]:
        """One epoch under the sampler's schedule, of the optimizer that is known here."""
        if self._optimizer is None:
            return contextlib.nullcontext()
        factor = rate_factor(self._configuration.rate_schedule, number, n_epochs)
        return scaled_rates(self._optimizer, factor, keeps_changes=True)

    def _score(self, model: nn.Module) -> float:
        self._n_evaluations += 1
        return score_model(self._evaluate, model, self._configuration)

    def _outcome(self) -> Outcome:
        inherits = self._configuration.inherit_optimizer_state
        state = {**self._kept_state, **self._ahead} if inherits else {}
        return Outcome(
            number=self._individual.reference.number,
            fitness=self._rule.kept_fitness,
            weights=snapshot_row(self._weights, 0),
            optimizer_state=Snapshot(*encode(state)) if state else None,
            birth_fitness=self._birth_fitness if self._individual.birth == "founder" else None,
            species=type(self._optimizer).__name__ if self._optimizer is not None else "",
            hyperparameters=dict(self._trial.params),
            n_back_offs=self._rule.n_back_offs,
            n_epochs=self._n_epochs,
            n_gradients=self._spending.n_gradients,
            n_forwards=self._spending.n_forwards,
            n_evaluations=self._n_evaluations,
        )

    def _show(self) -> None:
        maximize = self._configuration.maximize
        self._fitness = shown_value(self._rule.kept_fitness, maximize=maximize)
        self._held_slots.expect(self._trial.study, self._trial.number, self._fitness)
        finished = self._population.individual_of_trial(self._trial.number)
        if finished is not None:
            for name, value in attributes(finished, self._configuration).items():
                self._trial.set_user_attr(name, value)

    def _give_up(self, error: BaseException) -> None:
        """Give the slot back; a failure of user code counts as a try."""
        failure = (
            "".join(traceback.format_exception(error)) if isinstance(error, Exception) else None
        )
        self._population.release(self._claim, failure=failure)
        self._end()

    def _end(self) -> None:
        """The slot is finished or given back: the trial holds it no longer."""
        self._stack.close()
        self._held_slots.drop(self._trial.study, self._trial.number)


class ObjectiveWorkshop:
    """Scores bred weights with the objective's own model and evaluation."""

    def __init__(
        self, births: Births, model: nn.Module, evaluate: Evaluate, configuration: Configuration
    ) -> None:
        self._births = births
        self._model = model
        self._evaluate = evaluate
        self._configuration = configuration

    def train(self, individuals: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        """Training belongs to the objective."""
        del checkpoints
        raise StudyError(
            f"Individual {individuals[0].reference} is trained by the objective itself."
        )

    def evaluate(self, offspring: Sequence[Individual], *, best_fitness: float) -> list[Outcome]:
        """Breed and score offspring one by one on a copy of the model."""
        weights = self._births.weights(offspring)
        return offspring_outcomes(offspring, self._score(weights), best_fitness, weights)

    def keep_births(self, individuals: Sequence[Individual]) -> list[Outcome]:
        """Let the birth weights stand."""
        return self._births.stand(individuals, self._score)

    def _score(self, weights: Matrix) -> list[float]:
        model = _copied(self._model)
        scores = []
        for row in range(weights.n_rows):
            weights.load_into(model, row)
            scores.append(score_model(self._evaluate, model, self._configuration))
        return scores


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise TaskError(
            "Offspring are scored on a copy of the model, but copy.deepcopy cannot copy it: "
            f"{in_words(error)}. Leave out of it what cannot be copied, such as locks and open "
            "files, and use torch.nn.utils.parametrizations.weight_norm for torch.nn.utils."
            "weight_norm; or train with ESGDTrainer, whose tasks build models anew."
        ) from error


def score_model(evaluate: Evaluate, model: nn.Module, configuration: Configuration) -> float:
    """Score a model in evaluation mode, without gradients, and leave its mode as it was."""
    with evaluation_mode(model), torch.no_grad(), seeded(configuration.seed):
        value = evaluate(model)
    return check_fitness(value, maximize=configuration.maximize)
