"""Slots held by running trials whose objectives suggest their own hyperparameters.

With ``esgd.sgd_step`` an objective asks for its hyperparameters before it says what it trains.
Its slot is therefore claimed at the first ``suggest_*``, so that the values can be inherited from
the birth parent, and handed over when the step begins. Until then nothing is known of the model:
where offspring wait to be scored first, the trial goes on without a slot, and gets one when its
step begins.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import optuna
from optuna.trial import TrialState

from optuna_esgd.engine.actions import Action, Commit, Evaluate, Stop, Train, Wait
from optuna_esgd.engine.configuration import Configuration, Settings
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.explore import (
    NOTHING,
    Nothing,
    explore_nothing,
    explore_value,
    is_drawn_anew,
    species_stream,
)
from optuna_esgd.engine.individual import Claim, Individual, Slot
from optuna_esgd.engine.planning import goes_on, trained_ancestor
from optuna_esgd.engine.ports import GenerationLoop, Population
from optuna_esgd.errors import StudyError
from optuna_esgd.evolution.space import Range, Value, contains
from optuna_esgd.sampler.hyperparameter_evolution import Founder
from optuna_esgd.sampler.running_trials import RunningTrials, known_population
from optuna_esgd.store.lease import keep_lease, worker_name

_logger = logging.getLogger(__name__)

_WAIT_SECONDS = 0.05


@dataclass
class HeldSlot:
    """A slot claimed for a trial; its lease is renewed until it is dropped.

    Attributes:
        population: Whose slot.
        configuration: The run's settings.
        claim: To finish or release.
        individual: Who is trained in the slot.
        ancestor: The trained individual whose hyperparameters are inherited; None for founders.
        lease: Closed when the slot is no longer held.
        shadow: The trial that an Optuna sampler proposes values for, once it has been asked.
    """

    population: Population
    configuration: Configuration
    claim: Claim
    individual: Individual
    ancestor: Individual | None
    lease: contextlib.ExitStack
    shadow: optuna.Trial | None = None

    def value(self, name: str, range_: Range) -> Value:
        """The hyperparameter of this name, inherited from the ancestor where it had one."""
        if self.ancestor is None:
            return Founder(self.configuration, self.individual.reference.number).value(
                name, range_
            )
        inherited: Value | Nothing = self.ancestor.hyperparameters.get(name, NOTHING)
        if self.goes_on and inherited is not NOTHING and contains(range_, inherited):
            return inherited
        if self.is_drawn_anew:
            inherited = NOTHING
        return explore_value(
            self.configuration, self.individual.reference, name, range_, inherited
        )

    @property
    def goes_on(self) -> bool:
        """Whether the individual trains on with the values it had."""
        return goes_on(self.individual, self.configuration)

    @property
    def is_drawn_anew(self) -> bool:
        """Whether all values come from the whole space: always, or with a small probability."""
        reference = self.individual.reference
        return self.configuration.explore != "perturb" or is_drawn_anew(
            self.configuration, reference, species_stream(self.configuration, reference)
        )


@dataclass
class _StudySlots:
    """What one process holds of one study."""

    loop: GenerationLoop | None = None
    slots: dict[int, HeldSlot] = field(default_factory=dict)
    expected: dict[int, float] = field(default_factory=dict)  # of trials after their SGD step
    without_slot: int | None = None  # the trial that was last found to have none


class HeldSlots:
    """One process's held slots, by study and trial number; safe for the threads of ``n_jobs``.

    Args:
        running_trials: Where a trial that gets a slot is stood by.
    """

    def __init__(self, running_trials: RunningTrials) -> None:
        self._running_trials = running_trials
        self._studies: WeakKeyDictionary[optuna.storages.BaseStorage, dict[int, _StudySlots]] = (
            WeakKeyDictionary()
        )
        self._registry = threading.Lock()
        # Claiming may wait for others, among them threads of this process: these must be able to
        # give their slots back meanwhile, so this lock is for claiming only.
        self._claiming = threading.RLock()

    def find(self, study: optuna.Study, trial_number: int, settings: Settings) -> HeldSlot | None:
        """The slot a trial holds, claimed now if the study's objective is known to need one.

        Returns:
            None for studies without weights, for those an ESGDTrainer trains, and where offspring
            must be scored before the next slots exist and the model is not known yet.

        Raises:
            optuna.TrialPruned: All generations are done; the study is told to stop.
            ConfigurationError: The population was made with other settings.
            StudyError: The trial has had its SGD step.
        """
        mine = self._of(study)
        if trial_number in mine.expected:
            raise StudyError(
                f"Trial {trial_number} asks for a hyperparameter after its SGD step: it would not "
                "be inherited. Suggest all of them before the block, or inside."
            )
        held = mine.slots.get(trial_number)
        if held is not None or mine.without_slot == trial_number:
            return held
        with self._claiming:
            if mine.loop is None:
                mine.loop = _join(study, settings)
            held = None if mine.loop is None else self._try(study, trial_number, mine.loop)
            if held is None:
                mine.without_slot = trial_number
                if isinstance(mine.loop, _Planner):
                    mine.loop = None
            return held

    def hold(self, study: optuna.Study, trial_number: int, *, loop: GenerationLoop) -> HeldSlot:
        """The slot a trial holds, claimed now if need be.

        Evolution steps that stand in between are done first; if everything open is claimed by
        others, this waits.

        Raises:
            optuna.TrialPruned: All generations are done; the study is told to stop.
        """
        mine = self._of(study)
        mine.loop = loop
        held = mine.slots.get(trial_number)
        if held is not None:  # whoever waits for it, claiming, must not be waited for
            return held
        with self._claiming:
            while (held := self._try(study, trial_number, loop)) is None:
                pass
            return held

    def claiming(self) -> contextlib.AbstractContextManager[object]:
        """While nobody else of this process claims, or does what stands in between.

        A trial's loop is also what the next trials of other threads claim with.
        """
        return self._claiming

    def drop(self, study: optuna.Study, trial_number: int) -> None:
        """Forget a slot that is finished or given back."""
        held = self._of(study).slots.pop(trial_number, None)
        if held is not None:
            held.lease.close()

    def expect(self, study: optuna.Study, trial_number: int, value: float) -> None:
        """Know what a trial whose SGD step is finished is to return."""
        self._of(study).expected[trial_number] = value

    def release(
        self,
        study: optuna.Study,
        trial_number: int,
        state: TrialState,
        values: Sequence[float] | None = None,
    ) -> None:
        """Give back the slot of a trial that ended without its SGD step.

        It counts as a failed try, so that hyperparameters the objective refuses are not handed
        out for ever; not so if the objective has no SGD step at all.

        Args:
            study: Of the trial.
            trial_number: Which.
            state: What it ended as.
            values: What its objective returned, if it did.
        """
        expected = self._of(study).expected.pop(trial_number, None)
        if expected is not None and values and list(values) != [expected]:
            _logger.warning(
                "Trial %d returned %r, but the fitness of its individual is %r, which selection "
                "goes by: return step.fitness.",
                trial_number,
                values[0],
                expected,
            )
        held = self._of(study).slots.get(trial_number)
        if held is None:
            return
        if state == TrialState.COMPLETE:
            _logger.warning(
                "Trial %d ended without esgd.sgd_step, but the study trains a population; its "
                "individual waits for another trial. Use another study for other objectives.",
                trial_number,
            )
            held.population.release(held.claim)
        else:
            failure = f"Trial {trial_number} ended as {state.name} before its SGD step."
            held.population.release(held.claim, failure=failure)
        self.drop(study, trial_number)

    def _of(self, study: optuna.Study) -> _StudySlots:
        with self._registry:
            studies = self._studies.setdefault(study._storage, {})
            return studies.setdefault(study._study_id, _StudySlots())

    def _stand_by(self, study: optuna.Study, trial_number: int, held: HeldSlot) -> None:
        seconds = held.configuration.lease_seconds
        running = self._running_trials
        running.watch(study, trial_number, held.population, lease_seconds=seconds)
        running.stand_by(study, trial_number)

    def _try(
        self, study: optuna.Study, trial_number: int, loop: GenerationLoop
    ) -> HeldSlot | None:
        """Claim a slot, doing what stands in between; None where the loop cannot go on."""
        slots = self._of(study).slots
        while trial_number not in slots:
            action = loop.decide()
            match action:
                case Train(open_slots):
                    held = _claim(open_slots, trial_number, loop)
                    if held is not None:
                        slots[trial_number] = held
                        self._stand_by(study, trial_number, held)
                    elif isinstance(loop, _Planner):
                        return None
                case Stop():
                    study.stop()
                    raise optuna.TrialPruned(
                        f"All {loop.configuration.n_generations} generations are done."
                    )
                case _:
                    if not loop.act(action):
                        return None
        return slots[trial_number]


class _Planner:
    """Goes on with a population of which the model is not known yet: plans, and waits."""

    def __init__(self, population: Population, configuration: Configuration) -> None:
        self.population = population
        self.configuration = configuration

    def decide(self) -> Action:
        """Read the facts and decide."""
        return decide(self.population.facts(), self.configuration, explore_nothing)

    def act(self, action: Action) -> bool:
        """Commit a plan or wait; False for what needs the model."""
        match action:
            case Commit(plan):
                self.population.commit_plan(plan)
            case Wait():
                time.sleep(_WAIT_SECONDS)
            case Train() | Evaluate() | Stop():
                return False
        return True


def _join(study: optuna.Study, settings: Settings) -> GenerationLoop | None:
    """Open the study's population if its objective chooses its own hyperparameters."""
    if known_population(study) is None:
        return None
    from optuna_esgd.store.opening import open_population  # noqa: PLC0415

    population, configuration = open_population(study, settings, cohort_size=None)
    return None if configuration.described else _Planner(population, configuration)


def _claim(slots: tuple[Slot, ...], trial_number: int, loop: GenerationLoop) -> HeldSlot | None:
    # Founders' values are drawn by number: a trial's own number first keeps runs repeatable.
    for slot in sorted(slots, key=lambda one: trial_number not in one.numbers):
        if slot.n_failures >= loop.configuration.max_tries:
            loop.act(Train((slot,)))  # its birth weights stand
            return None
        claim = loop.population.claim(
            slot.key,
            worker=worker_name(),
            lease_seconds=loop.configuration.lease_seconds,
        )
        if claim is not None:
            return _held(claim, loop)
    return None


def _held(claim: Claim, loop: GenerationLoop) -> HeldSlot:
    population, seconds = loop.population, loop.configuration.lease_seconds
    lease = contextlib.ExitStack()
    lease.enter_context(keep_lease(population, claim, seconds))
    generation = claim.slot.key.generation
    (number,) = claim.slot.numbers
    individual = next(
        one
        for one in population.individuals(generation=generation)
        if one.reference.round == 0 and one.reference.number == number
    )
    parent = individual.first_parent
    before = () if parent is None else population.individuals(generation=parent.generation)
    ancestor = trained_ancestor(individual, {one.reference: one for one in before})
    return HeldSlot(population, loop.configuration, claim, individual, ancestor, lease)
