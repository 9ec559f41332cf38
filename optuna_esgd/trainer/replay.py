"""Trains the genealogy of one individual again, and nobody else, from what the database says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import optuna
from optuna.trial import FrozenTrial
from torch import Tensor

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.descent import Kin, descent, trained_parents
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.errors import ConfigurationError, ReplayError, WeightsNotFoundError
from optuna_esgd.genome.codec import decode
from optuna_esgd.genome.layout import Layout
from optuna_esgd.store.chunks import pack
from optuna_esgd.store.opening import open_results
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.preemption import NoCheckpoints
from optuna_esgd.trainer.results import find_individual
from optuna_esgd.trainer.task import with_gradients

_logger = logging.getLogger(__name__)


class Replay(NamedTuple):
    """A genealogy that was trained again and ended at the same bits.

    Attributes:
        individual: Whose genealogy.
        digest: Of its weights: the stored one, and the one computed now.
        weights: Its state dict, trained now, on the CPU.
        n_ancestors: How many individuals had to be trained, itself among them.
        n_companions: How many rows were trained beside them for the shape of their cohort alone.
        n_gradients: Gradient evaluations on mini-batches, now, those of companions among them.
        n_trained_in_run: How many individuals the run has trained.
        n_gradients_in_run: Gradient evaluations of the whole run.
    """

    individual: Individual
    digest: str
    weights: dict[str, Tensor]
    n_ancestors: int
    n_companions: int
    n_gradients: int
    n_trained_in_run: int
    n_gradients_in_run: int


@with_gradients
def replay(
    study: optuna.Study,
    trainer: ESGDTrainer,
    *,
    trial: int | FrozenTrial | None = None,
    on_trained: Callable[[Individual], None] = lambda _: None,
) -> Replay:
    """Train the best individual's genealogy again, bit by bit; nothing is read but rows.

    Founders, SGD steps and recombinations are made from seeds, births, species and
    hyperparameters as stored; no stored weights are needed, so it does not matter that most of
    them were collected. Nothing is written. Every ancestor's weights are compared with the digest
    that was stored when it ended.

    Ancestors alone are trained as long as that gives the same bits. Batched arithmetic may depend
    on how many rows there are (batch-norm and convolutions do, plain layers mostly do not). From
    the first cohort where it does, ancestors train in cohorts of the run's shape, whose other rows
    are companions without meaning; then the cost is that of their cohorts. With
    ``cohort_size=1``, and row by row, there are none. With a diversity operator all individuals
    of a cohort depend on each other, and all of them are trained.

    Args:
        study: A study that was trained with such a trainer; it may be asynchronous.
        trainer: As in the run: task, data, species, operators, anchor. Trains on its device.
        trial: Whose genealogy, by the trial that shows it; the best individual's if None.
        on_trained: Told of each ancestor that has ended at its digest.

    Returns:
        What was trained, and at what cost.

    Raises:
        ReplayError: An individual ended with other weights than in the run. Bits repeat on one
            kind of hardware, one torch version and one number of torch threads.
        ConfigurationError: The trainer is not that of the run.
        StudyError: The study has no population.
        WeightsNotFoundError: Nobody has finished yet.
    """
    if not isinstance(trainer, ESGDTrainer):
        raise ConfigurationError(
            "A replay trains with the ESGDTrainer of the run, got "
            f"{type(trainer).__name__}. What an objective with sgd_step does, only it knows."
        )
    population = open_results(study, trainer.store)
    individual = find_individual(population, trial)
    if individual.fitness is None:
        raise WeightsNotFoundError(
            f"Individual {individual.reference} has not finished; replay it when it has."
        )
    configuration = trainer.check_configuration(population.configuration)
    layout = trainer.build_layout()
    population.check_layout(layout.to_json())
    rehearsal = _Rehearsal(trainer, configuration, layout, population)
    return rehearsal.perform(individual, on_trained)


class _Rehearsal:
    """One replay, cohort after cohort."""

    def __init__(
        self,
        trainer: ESGDTrainer,
        configuration: Configuration,
        layout: Layout,
        population: Population,
    ) -> None:
        everyone = population.individuals()
        self._everyone = {one.reference: one for one in everyone}
        self._slots = population.slots()
        self._is_coupled = trainer.diversity is not None
        self._trained = _Trained(everyone)
        self._workshop = trainer.workshop(self._trained, configuration, layout)
        self._needs_shape = False
        self._n_companions = 0
        self._n_gradients = 0

    def perform(self, individual: Individual, on_trained: Callable[[Individual], None]) -> Replay:
        """Train everyone it descends from, then itself."""
        line = descent(individual, self._everyone, self._slots, is_coupled=self._is_coupled)
        leavers = self._last_uses(line, individual)
        for position, kin in enumerate(line):
            for outcome, one in zip(self._train(kin), kin.ancestors, strict=True):
                self._trained.put(one.reference, outcome)
                on_trained(one)
            self._trained.forget(leavers.get(position, ()))
        if individual.reference.round == 0:
            weights = self._trained.read_weights(individual.reference)
        else:
            weights = self._workshop.breed(individual)
            if (found := digest(weights)) != individual.weights:
                raise _differs(individual, found)
        trained = [one for one in self._everyone.values() if one.reference.round == 0]
        return Replay(
            individual=individual,
            digest=digest(weights),
            weights=decode(weights.manifest, weights.payload),
            n_ancestors=sum(len(kin.ancestors) for kin in line),
            n_companions=self._n_companions,
            n_gradients=self._n_gradients,
            n_trained_in_run=sum(one.fitness is not None for one in trained),
            n_gradients_in_run=sum(one.n_gradients for one in self._everyone.values()),
        )

    def _train(self, kin: Kin) -> list[Outcome]:
        """Train a cohort's ancestors until they end as they did; in their order.

        Raises:
            ReplayError: They do not.
        """
        if all(one.n_epochs == 0 for one in kin.ancestors):  # it kept failing: see WorkLoop
            return self._checked(kin, self._workshop.keep_births(kin.ancestors))
        is_alone = not (kin.companions and self._workshop.trains_batched)
        if is_alone or not self._needs_shape:
            outcomes = self._worked_off(kin.ancestors)
            if is_alone or self._difference(kin, outcomes) is None:
                return self._checked(kin, outcomes)
            _logger.info(
                "Here batched arithmetic depends on the number of rows; from now on ancestors "
                "train in cohorts of the run's shape."
            )
            self._needs_shape = True
        companions = [_as_companion(one, kin.ancestors[0]) for one in kin.companions]
        self._n_companions += len(companions)
        return self._checked(kin, self._worked_off([*kin.ancestors, *companions]))

    def _worked_off(self, individuals: Sequence[Individual]) -> list[Outcome]:
        outcomes = self._workshop.train(individuals, NoCheckpoints())
        self._n_gradients += sum(one.n_gradients for one in outcomes)
        return outcomes

    def _checked(self, kin: Kin, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The ancestors' outcomes, in their order."""
        error = self._difference(kin, outcomes)
        if error is not None:
            raise error
        by_number = {outcome.number: outcome for outcome in outcomes}
        return [by_number[one.reference.number] for one in kin.ancestors]

    def _difference(self, kin: Kin, outcomes: Sequence[Outcome]) -> ReplayError | None:
        """The first ancestor that has ended otherwise than in the run."""
        found = {one.number: digest(one.weights) for one in outcomes if one.weights is not None}
        for one in kin.ancestors:
            if found[one.reference.number] != one.weights:
                return _differs(one, found[one.reference.number])
        return None

    def _last_uses(self, line: Sequence[Kin], last: Individual) -> dict[int, list[Reference]]:
        """Position in the line -> whom nobody needs after it: only the needed stay in memory."""
        position_of: dict[Reference, int] = {}
        for position, kin in enumerate(line):
            for one in kin.ancestors:
                position_of[one.reference] = position
                for parent in trained_parents(one, self._everyone):
                    position_of[parent] = position
        is_bred = last.reference.round > 0
        wanted = trained_parents(last, self._everyone) if is_bred else {last.reference}
        position_of.update(dict.fromkeys(wanted, len(line)))
        leavers: dict[int, list[Reference]] = {}
        for reference, position in position_of.items():
            leavers.setdefault(position, []).append(reference)
        return leavers


class _Trained:
    """Those who have been trained again, as ``Births`` reads a population."""

    def __init__(self, everyone: Sequence[Individual]) -> None:
        by_generation = groupby(everyone, key=lambda one: one.reference.generation)
        self._individuals = {generation: tuple(ones) for generation, ones in by_generation}
        self._outcomes: dict[Reference, Outcome] = {}

    def put(self, reference: Reference, outcome: Outcome) -> None:
        """Keep how an individual ended."""
        self._outcomes[reference] = outcome

    def forget(self, references: Sequence[Reference]) -> None:
        """Drop those that nobody needs any more."""
        for reference in references:
            self._outcomes.pop(reference, None)

    def individuals(self, *, generation: int | None = None) -> Sequence[Individual]:
        """All individuals of a generation, as stored."""
        if generation is None:
            return [one for ones in self._individuals.values() for one in ones]
        return self._individuals[generation]

    def read_weights(self, reference: Reference) -> Snapshot:
        """The weights an individual has ended with now."""
        weights = self._outcomes[reference].weights
        if weights is None:
            raise WeightsNotFoundError(f"Individual {reference} has no weights.")
        return weights

    def read_optimizer_state(self, reference: Reference) -> Snapshot | None:
        """Its optimizer state."""
        return self._outcomes[reference].optimizer_state


def digest(weights: Snapshot) -> str:
    """What the store would call these weights."""
    return pack(weights).listing.digest


def _as_companion(one: Individual, ancestor: Individual) -> Individual:
    """Somebody with the species and hyperparameters of ``one``, born as ``ancestor`` was.

    What a row holds does not touch the bits of its neighbours; how many there are, and which
    optimizers they share a backward pass with, may.
    """
    return replace(
        one,
        birth=ancestor.birth,
        origin=ancestor.origin,
        parents=ancestor.parents,
        birth_fitness=ancestor.birth_fitness,
        inherits_optimizer_state=False,
    )


def _differs(one: Individual, found: str) -> ReplayError:
    shown = "" if one.trial_number is None else f", trial {one.trial_number}"
    species = f", species {one.species}" if one.species else ""
    return ReplayError(
        f"Individual {one.reference}{shown}{species} is the first that differs: trained again, "
        f"its weights have digest {found}, but {one.weights} was stored when it ended. Everyone "
        "it descends from is the same. Bits repeat on one kind of hardware, with one torch "
        "version and one number of torch threads; if these are the run's, then something that a "
        "study cannot see has changed: a Dataset, the loss, the anchor, or your task's code."
    )
