"""A patient: a trainer on a population in memory, of which a few founders train for an epoch.

Nothing here touches a database, whatever the trainer's ``store`` says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import optuna
import torch
from torch import Tensor, nn

from optuna_esgd.doctor.stopwatch import Stopwatch
from optuna_esgd.engine.actions import Commit
from optuna_esgd.engine.configuration import Configuration, cohorts
from optuna_esgd.engine.individual import Individual, Reference, SlotKey
from optuna_esgd.engine.planning import breed_offspring
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.errors import StudyError
from optuna_esgd.genome.codec import encode
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.sampler import ESGDSampler
from optuna_esgd.trainer.batched_model import copied, why_not_batched, why_not_together
from optuna_esgd.trainer.births import snapshot_row
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.seeding import build_seeded, seeded
from optuna_esgd.trainer.spending import Spending
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import Task
from optuna_esgd.trainer.workshop import TaskWorkshop

Say = Callable[[str], None]

# Enough founders to speak of their spread; fewer where training them takes long.
_WANTED_FOUNDERS = 8
_FEWEST_FOUNDERS = 2
_LONG_SECONDS = 60.0
# How many are examined again and again where they are scored one after the other.
_FEW = 3
_NO_CUSTOM_LOOP = "the task has a training loop of its own"


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Founders that trained together for one epoch, without back-off.

    Attributes:
        individuals: Who is in which row.
        births: The rows before.
        weights: The rows after.
        birth_fitness: Before; lower is better, inf = diverged.
        fitness: After.
        states: What the optimizers would carry on.
        spent: What the epoch has cost.
        training_seconds: Of the epoch.
        scoring_seconds: Of scoring all rows once.
    """

    individuals: Sequence[Individual]
    births: Matrix
    weights: Matrix
    birth_fitness: Sequence[float]
    fitness: Sequence[float]
    states: Sequence[dict[str, Tensor]]
    spent: Sequence[Spending]
    training_seconds: float
    scoring_seconds: float


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What examinations look at; they may train copies, and change nothing of it.

    Attributes:
        task: What is trained.
        configuration: Of the run that is planned.
        trainer: A copy of the user's, with weights in memory.
        study: In memory.
        population: Of the study; the founders that have trained are stored there.
        workshop: A worker's.
        device: Where it trains.
        layout: The model's.
        cohorts: Founders that have trained, one cohort at least.
        weights: Their rows after it, all cohorts one after the other.
        fitness: Their fitness after it; lower is better, inf = diverged.
        why_trains_by_row: Why training is not batched; None if it is.
        why_scored_by_row: Why scoring is not; None if it is.
        n_workers: How many are planned.
        say: Told what takes a while.
    """

    task: Task
    configuration: Configuration
    trainer: ESGDTrainer
    study: optuna.Study
    population: Population
    workshop: TaskWorkshop
    device: torch.device
    layout: Layout
    cohorts: Sequence[Cohort]
    weights: Matrix
    fitness: Sequence[float]
    why_trains_by_row: str | None
    why_scored_by_row: str | None
    n_workers: int
    say: Say

    @property
    def individuals(self) -> list[Individual]:
        """The founders that have trained, by row."""
        return [one for cohort in self.cohorts for one in cohort.individuals]

    @property
    def few(self) -> Matrix:
        """Rows to score again and again: a batched cohort as it is, or the first few rows."""
        if self.why_scored_by_row is None:
            return self.cohorts[0].weights
        return self.weights.rows(range(min(_FEW, self.weights.n_rows)))

    @property
    def few_to_train(self) -> list[Individual]:
        """Founders to train again: the first, or, batched, a cohort and the species it lacks."""
        first = list(self.cohorts[0].individuals)
        if self.why_trains_by_row is not None:
            return first[:1]
        found = {one.species for one in first}
        others = {one.species: one for one in self.individuals if one.species not in found}
        return [*first, *others.values()]

    def model(self, row: int) -> nn.Module:
        """A new model with the weights of a row."""
        model = build_seeded(self.task, self.configuration, self.device)
        self.weights.load_into(model, row)
        return model

    def another_worker(self) -> TaskWorkshop:
        """The workshop of another worker on the same population: nothing in it is used yet."""
        return _workshop(self.trainer.to(self.device).open(self.study))

    def offspring(self, n_wanted: int) -> list[Individual]:
        """Offspring of the founders that have trained, as the first evolution round has them."""
        everyone = self.population.individuals(generation=0)
        pool = [one for one in everyone if one.fitness is not None]
        references = [Reference(0, 1, number) for number in range(n_wanted)]
        return list(breed_offspring(references, pool, self.configuration))


def prepare(
    trainer: ESGDTrainer,
    sampler: ESGDSampler,
    *,
    direction: Literal["minimize", "maximize"],
    n_workers: int,
    say: Say,
) -> Patient:
    """Train a few founders for an epoch, in memory.

    Args:
        trainer: Not changed.
        sampler: Its settings are the run's.
        direction: Of the study.
        n_workers: How many will share the population.
        say: Told what takes a while.

    Raises:
        EsgdError: A worker could not begin with this trainer either.
    """
    trainer = copy.copy(trainer)
    trainer.store, trainer.expected_workers = None, n_workers
    study = optuna.create_study(sampler=sampler, direction=direction)
    loop = trainer.open(study)
    configuration, device = loop.configuration, trainer.device
    with seeded(0):
        layout = Layout.of(trainer.task.build_model())
    action = loop.decide()
    if not isinstance(action, Commit):
        raise StudyError("A study in memory must begin with its founders.")
    loop.act(action)
    trained = _train_founders(loop, device, say)
    weights = Matrix.zeros(layout, sum(len(one.individuals) for one in trained), device)
    n_before = 0
    for one in trained:
        n_rows = len(one.individuals)
        weights.copy_rows(one.weights, range(n_rows), range(n_before, n_before + n_rows))
        n_before += n_rows
    by_row = _why_by_row(trainer, configuration, layout, device)
    return Patient(
        task=trainer.task,
        configuration=configuration,
        trainer=trainer,
        study=study,
        population=loop.population,
        workshop=_workshop(loop),
        device=device,
        layout=layout,
        cohorts=trained,
        weights=weights,
        fitness=[fitness for one in trained for fitness in one.fitness],
        why_trains_by_row=by_row[0],
        why_scored_by_row=by_row[1],
        n_workers=n_workers,
        say=say,
    )


def _workshop(loop: WorkLoop) -> TaskWorkshop:
    if not isinstance(loop.workshop, TaskWorkshop):
        raise TypeError(f"An ESGDTrainer has a TaskWorkshop, got {type(loop.workshop).__name__}.")
    return loop.workshop


def _train_founders(loop: WorkLoop, device: torch.device, say: Say) -> list[Cohort]:
    """Train cohorts of founders: enough of them and all species, unless it takes long."""
    configuration = loop.configuration
    founders = loop.population.individuals(generation=0)
    n_wanted = max(_WANTED_FOUNDERS, configuration.n_parents)
    n_least = max(_FEWEST_FOUNDERS, configuration.n_parents)
    watch = Stopwatch(device)
    trained: list[Cohort] = []
    n_trained = 0
    missing = {one.species for one in founders}
    for number, numbers in enumerate(cohorts(configuration, configuration.population_size)):
        if n_trained >= n_least and watch.seconds() > _LONG_SECONDS:
            break
        members = [one for one in founders if one.reference.number in numbers]
        species = {one.species for one in members}
        if n_trained >= n_wanted and not missing & species:
            continue
        missing -= species
        who = (
            f"founders {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"founder {number}"
        )
        say(f"training {who} for one epoch")
        cohort = train_cohort(_workshop(loop), members, device)
        _store(loop, SlotKey(0, 0, number), cohort)
        trained.append(cohort)
        n_trained += len(members)
    return trained


def train_cohort(
    workshop: TaskWorkshop, individuals: Sequence[Individual], device: torch.device
) -> Cohort:
    """Train founders together for one epoch, without back-off."""
    ordered, training = workshop.begin(individuals)
    births, birth_fitness = training.weights.clone(), training.score()
    watch = Stopwatch(device)
    spent = training.train_epoch(0)
    training_seconds = watch.seconds()
    watch = Stopwatch(device)
    fitness = training.score()
    return Cohort(
        individuals=ordered,
        births=births,
        weights=training.weights,
        birth_fitness=birth_fitness,
        fitness=fitness,
        states=[training.optimizer_state(row) for row in range(len(ordered))],
        spent=spent,
        training_seconds=training_seconds,
        scoring_seconds=watch.seconds(),
    )


def _store(loop: WorkLoop, key: SlotKey, cohort: Cohort) -> None:
    """Finish the slot in memory, for parents of offspring are read from the population."""
    population = loop.population
    claim = population.claim(key, worker="doctor", lease_seconds=loop.configuration.lease_seconds)
    outcomes = [
        Outcome(
            number=one.reference.number,
            fitness=cohort.fitness[row],
            birth_fitness=cohort.birth_fitness[row],
            weights=snapshot_row(cohort.weights, row),
            optimizer_state=Snapshot(*encode(cohort.states[row])) if cohort.states[row] else None,
            n_epochs=1,
        )
        for row, one in enumerate(cohort.individuals)
    ]
    if claim is None or not population.finish(claim, outcomes):
        raise StudyError(f"Slot {key} of a population in memory cannot be finished.")


def _why_by_row(
    trainer: ESGDTrainer, configuration: Configuration, layout: Layout, device: torch.device
) -> tuple[str | None, str | None]:
    """Why training, and why scoring, go row by row; None where they do not."""
    task = trainer.task
    if not isinstance(task, SupervisedTask):
        return _NO_CUSTOM_LOOP, _NO_CUSTOM_LOOP
    model = copied(task, build_seeded(task, configuration, device), device)
    with seeded(configuration.seed):
        training, scoring = why_not_batched(task, model, layout, device)
    return training or why_not_together(trainer.species), scoring
