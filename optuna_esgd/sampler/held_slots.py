"""Slots held by running trials whose objectives suggest their own hyperparameters.

With ``esgd.sgd_step`` an objective asks for its hyperparameters before it says what it trains.
Its slot is therefore claimed at the first ``suggest_*``, so that the values can be inherited from
the birth parent, and handed over when the step begins.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

import optuna

from optuna_esgd.engine.actions import Action, Commit, Evaluate, Stop, Train, Wait
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import NOTHING, Nothing, explore_value
from optuna_esgd.engine.individual import Claim, Individual, Slot
from optuna_esgd.engine.planning import trained_ancestor
from optuna_esgd.engine.ports import Population
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.evolution.space import Range, Value

_WAIT_SECONDS = 0.05


class GenerationLoop(Protocol):
    """What holding a slot needs of the trainer's work loop."""

    population: Population
    configuration: Configuration

    def decide(self) -> Action:
        """Read the facts and decide."""
        ...

    def act(self, action: Action) -> bool:
        """Carry out one action."""
        ...


@dataclass(frozen=True)
class HeldSlot:
    """A slot claimed for a trial.

    Attributes:
        population: Whose slot.
        configuration: The run's settings.
        claim: To finish or release.
        individual: Who is trained in the slot.
        ancestor: The trained individual whose hyperparameters are inherited; None for founders.
    """

    population: Population
    configuration: Configuration
    claim: Claim
    individual: Individual
    ancestor: Individual | None

    def value(self, name: str, range_: Range) -> Value:
        """The hyperparameter of this name, inherited from the ancestor where it had one."""
        inherited: Value | Nothing = NOTHING
        if self.ancestor is not None and not self._is_drawn_anew:
            inherited = self.ancestor.hyperparameters.get(name, NOTHING)
        return explore_value(
            self.configuration, self.individual.reference, name, range_, inherited
        )

    @property
    def _is_drawn_anew(self) -> bool:
        """Whether all values come from the whole space: always, or with a small probability."""
        generation, number = self.individual.reference.generation, self.individual.reference.number
        rng = stream(self.configuration.seed, generation, number, "species")
        is_resampled = bool(rng.random() < self.configuration.resample_probability)
        return self.configuration.explore != "perturb" or is_resampled


class HeldSlots:
    """One process's held slots, by study and trial number; safe for the threads of ``n_jobs``."""

    def __init__(self) -> None:
        self._slots: dict[tuple[int, int], HeldSlot] = {}
        self._loops: dict[int, GenerationLoop] = {}
        self._lock = threading.RLock()

    def find(self, study: optuna.Study, trial_number: int) -> HeldSlot | None:
        """The slot a trial holds.

        A trial of a study whose objective is known to use ``sgd_step`` (one has run in this
        process) claims one now if it has none.
        """
        held = self._slots.get((study._study_id, trial_number))
        loop = self._loops.get(study._study_id)
        if held is not None or loop is None:
            return held
        return self.hold(study, trial_number, loop=loop)

    def hold(self, study: optuna.Study, trial_number: int, *, loop: GenerationLoop) -> HeldSlot:
        """The slot a trial holds, claimed now if need be.

        Evolution steps that stand in between are done first; if everything open is claimed by
        others, this waits.

        Raises:
            optuna.TrialPruned: All generations are done; the study is told to stop.
        """
        key = (study._study_id, trial_number)
        with self._lock:
            self._loops[study._study_id] = loop
            while key not in self._slots:
                held = self._claim(study, trial_number, loop)
                if held is not None:
                    self._slots[key] = held
            return self._slots[key]

    def release(self, study: optuna.Study, trial_number: int) -> None:
        """Forget a trial that has ended; its slot is given back if it was not finished."""
        held = self._slots.pop((study._study_id, trial_number), None)
        if held is not None:
            held.population.release(held.claim)

    def _claim(
        self, study: optuna.Study, trial_number: int, loop: GenerationLoop
    ) -> HeldSlot | None:
        match loop.decide():
            case Train(slots):
                return self._claim_one(slots, trial_number, loop)
            case Commit() | Evaluate() as action:
                loop.act(action)
            case Wait():
                time.sleep(_WAIT_SECONDS)
            case Stop():
                study.stop()
                raise optuna.TrialPruned(
                    f"All {loop.configuration.n_generations} generations are done."
                )
        return None

    def _claim_one(
        self, slots: tuple[Slot, ...], trial_number: int, loop: GenerationLoop
    ) -> HeldSlot | None:
        # Founders' values are drawn by number: a trial's own number first keeps runs repeatable.
        for slot in sorted(slots, key=lambda one: trial_number not in one.numbers):
            if slot.n_failures >= loop.configuration.max_tries:
                loop.act(Train((slot,)))  # its birth weights stand
                return None
            claim = loop.population.claim(
                slot.key,
                worker=f"trial {trial_number}",
                lease_seconds=loop.configuration.lease_seconds,
            )
            if claim is not None:
                return _held(claim, loop)
        return None


def _held(claim: Claim, loop: GenerationLoop) -> HeldSlot:
    population = loop.population
    generation = claim.slot.key.generation
    (number,) = claim.slot.numbers
    individual = next(
        one
        for one in population.individuals(generation=generation)
        if one.reference.round == 0 and one.reference.number == number
    )
    before = population.individuals(generation=generation - 1) if generation else ()
    ancestor = trained_ancestor(individual, {one.reference: one for one in before})
    return HeldSlot(population, loop.configuration, claim, individual, ancestor)
