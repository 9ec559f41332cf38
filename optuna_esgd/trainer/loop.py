"""The work loop: decide, act, write. One worker's view of Algorithm 1."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from optuna_esgd.engine.actions import Action, Commit, Evaluate, Stop, Train, Wait
from optuna_esgd.engine.configuration import Configuration, cohorts
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.foresight import after_plan, after_slot, is_round_finished
from optuna_esgd.engine.individual import Claim, Facts, Individual, Plan, Slot
from optuna_esgd.engine.ports import Explore, Population
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.errors import StorageError
from optuna_esgd.store.lease import keep_lease
from optuna_esgd.trainer.preemption import (
    Checkpoints,
    Preempted,
    Preemption,
    SlotCheckpoints,
)

_logger = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS = 0.02
_LONGEST_WAIT_SECONDS = 1.0
# A collection takes several transactions, however little there is to collect.
_MOST_COLLECTED_GENERATIONS = 8
_MOST_COLLECTED_BYTES = 32 * 2**20
_WAITS_BEFORE_WARNING = 15  # about ten seconds


class Workshop(Protocol):
    """Does the work of slots: trains individuals, scores offspring, or lets the birth stand."""

    def train(self, individuals: Sequence[Individual], checkpoints: Checkpoints) -> list[Outcome]:
        """Run the SGD step of a cohort, from where an earlier worker got to."""
        ...

    def evaluate(self, offspring: Sequence[Individual], *, best_fitness: float) -> list[Outcome]:
        """Breed a cohort of offspring and score them; weights only of one better than the best."""
        ...

    def keep_births(self, individuals: Sequence[Individual]) -> list[Outcome]:
        """Finish a slot whose training keeps failing: the birth weights stand."""
        ...


def worker_name() -> str:
    """Who works here: host, process and thread."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_native_id()}"


class WorkLoop:
    """One worker on one population.

    Attributes:
        population: Where facts are read and outcomes written.
        configuration: The run's settings.
        workshop: Does the work of slots.
        preemption: Asks this worker to stop.
        checkpoint_seconds: Seconds between two checkpoints of one SGD step.
        tell: Is told of everyone in a generation that has ended, before the next one begins.
    """

    def __init__(
        self,
        population: Population,
        configuration: Configuration,
        explore: Explore,
        workshop: Workshop,
    ) -> None:
        self.population = population
        self.configuration = configuration
        self._explore = explore
        self.workshop = workshop
        self.preemption = Preemption()
        self.checkpoint_seconds = math.inf
        self.tell: Callable[[Sequence[Individual]], None] = lambda _everyone: None
        self._n_waits = 0
        self._facts = Facts()
        self._are_foreseen = False
        self._rest: Train | Evaluate | None = None
        self._is_handing_out = False
        self._most_bytes = 0

    def decide(self) -> Action:
        """Read the facts and decide.

        With a barrier nothing else can be done while slots of a round are open: so after one of
        them the others are offered without reading again, until they turn out to be taken. And
        facts that follow from what this worker has just committed are not read, but used once: if
        others were faster, what they lead to is refused.
        """
        if self._rest is not None:
            return self._rest
        if not self._are_foreseen:
            self._facts = self.population.facts()
        self._are_foreseen = False
        return decide(self._facts, self.configuration, self._explore)

    def next_individual(
        self, trial_number: int, stand_by: Callable[[], None]
    ) -> Individual | None:
        """Work until there is a finished individual for this trial.

        The evolution step comes first, since others wait for it; then individuals that finished
        without a trial (the rest of a cohort, or of a worker that died) are handed out; only
        then is more trained. So n trials train n individuals and no more, and the evolution step
        of a generation is done before its last trial returns.

        Args:
            trial_number: Of a running trial.
            stand_by: Called once if the trial has to wait for work that takes time.

        Returns:
            The individual, or None if all generations are done.
        """
        is_stood_by = False
        while True:
            # While a cohort is handed out the evolution step before it is done: no need to look.
            action = None if self._is_handing_out else self.decide()
            if not isinstance(action, Commit | Evaluate):
                individual = self.population.assign_trial(trial_number)
                self._is_handing_out = individual is not None
                if individual is not None:
                    return individual
            if action is None:
                continue
            if not is_stood_by and not isinstance(action, Commit):
                stand_by()
                is_stood_by = True
            if not self.act(action):
                return None

    def finish_generation(self) -> None:
        """Do what is left to do between two SGD steps, as far as others have not claimed it."""
        while isinstance(action := self.decide(), Commit | Evaluate):
            self.act(action)

    def act(self, action: Action) -> bool:
        """Carry out one action; losing a race is not an error, the facts are just read again.

        Returns:
            False if there is nothing left to do.
        """
        match action:
            case Commit(plan):
                self._commit(plan)
            case Train() | Evaluate():
                self._work(action)
            case Wait():
                self._wait()
                return True
            case Stop():
                return False
        self._n_waits = 0
        return True

    def _commit(self, plan: Plan) -> None:
        """Store the plan; who wins also clears away, now and then, what nobody needs any more."""
        if plan.round == 0 and not self.configuration.asynchronous:
            self.tell(self._facts.individuals)
        if not self.population.commit_plan(plan):
            return
        if not self.configuration.asynchronous:
            self._facts, self._are_foreseen = after_plan(self._facts, plan), True
        if plan.round > 0 or plan.generation == 0:
            return
        # Cohorts that are planned one by one take turns: so one that is stuck keeps the others
        # from clearing away in few generations only.
        all_cohorts = cohorts(self.configuration, self.configuration.population_size)
        n_plans = len(all_cohorts) // len(plan.cohorts)
        n_turns, rest = divmod(plan.generation + plan.first_cohort, n_plans)
        if rest:
            return
        if plan.certificate:
            _log_progress(plan)
        is_last = not self.configuration.wants(plan.generation + 1)
        if is_last or n_turns % self._collection_interval() == 0:
            self.population.collect_garbage()

    def _collection_interval(self) -> int:
        """How many generations go by between two collections: few if they take much room.

        Whoever has not trained yet does not know, and collects.
        """
        n_bytes = self._most_bytes * self.configuration.population_size
        if n_bytes == 0:
            return 1
        return max(1, min(_MOST_COLLECTED_GENERATIONS, _MOST_COLLECTED_BYTES // n_bytes))

    def _work(self, action: Train | Evaluate) -> None:
        """Claim one of the slots and work it off."""
        claim = self.population.claim_one_of(
            [slot.key for slot in action.slots],
            worker=worker_name(),
            lease_seconds=self.configuration.lease_seconds,
        )
        self._rest = None
        if claim is None:
            return
        rest = tuple(slot for slot in action.slots if slot.key > claim.slot.key)
        if rest and not self.configuration.asynchronous:
            self._rest = replace(action, slots=rest)
        lease_seconds = self.configuration.lease_seconds
        checkpoints = SlotCheckpoints(
            self.population,
            claim,
            lease_seconds=lease_seconds,
            every_seconds=self.checkpoint_seconds,
            preemption=self.preemption,
        )
        try:
            with keep_lease(self.population, claim, lease_seconds):
                with self.preemption.interruptible():
                    outcomes = self._outcomes(claim.slot, checkpoints)
                is_mine = self.population.finish(claim, outcomes)
        except StorageError:
            raise  # nothing can be written now; the lease runs out by itself
        except Preempted:
            checkpoints.save()
            self.population.release(claim)
            raise
        except Exception:
            # With the lease lost, what was needed may be collected: that is not a failure.
            is_mine = self.population.release(claim, failure=traceback.format_exc())
            if is_mine:
                raise
        except BaseException:  # Ctrl-C, SystemExit: not the slot's fault
            self.population.release(claim)
            raise
        if is_mine:
            self._foresee(claim, outcomes)
        else:
            _logger.warning(
                "The lease on %s ran out before its work was done; another worker has it now and "
                "this result is dropped. Raise lease_seconds if this happens often.",
                claim.slot.key,
            )

    def _foresee(self, claim: Claim, outcomes: Sequence[Outcome]) -> None:
        """Know the facts after a slot of the latest round, as far as they depend on it."""
        key = claim.slot.key
        self._most_bytes = max(self._most_bytes, *map(_n_bytes, outcomes))
        if self.configuration.asynchronous or key[:2] != (
            self._facts.generation,
            self._facts.round,
        ):
            return
        self._facts = after_slot(self._facts, claim, outcomes)
        self._are_foreseen = is_round_finished(self._facts)

    def _outcomes(self, slot: Slot, checkpoints: Checkpoints) -> list[Outcome]:
        everyone = self._everyone(slot)
        cohort = [
            one
            for one in everyone
            if one.reference.round == slot.key.round and one.reference.number in slot.numbers
        ]
        if slot.n_failures >= self.configuration.max_tries:
            _logger.warning("%s failed %d times; birth weights stand.", slot.key, slot.n_failures)
            return self.workshop.keep_births(cohort)
        if slot.key.round == 0:
            return self.workshop.train(cohort, checkpoints)
        before = (one for one in everyone if one.reference.round < slot.key.round)
        best = min((one.fitness for one in before if one.fitness is not None), default=math.inf)
        return self.workshop.evaluate(cohort, best_fitness=best)

    def _everyone(self, slot: Slot) -> Sequence[Individual]:
        """The slot's generation, as far as its work depends on it.

        The facts that offered the slot have it: plans do not change, and the rounds before are
        finished. Without a barrier they have nobody whom no place needs any more; so an offspring
        may be taken for the best, and stored, that is not.
        """
        generation = slot.key.generation
        return [one for one in self._facts.individuals if one.reference.generation == generation]

    def _wait(self) -> None:
        """Wait with back-off: others have claimed everything that is open."""
        self._n_waits += 1
        if self._n_waits == _WAITS_BEFORE_WARNING:
            _logger.warning(
                "Waiting for other workers, who have claimed all that is open. If one of them "
                "died, its lease runs out within %g seconds.",
                self.configuration.lease_seconds,
            )
        pause = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2 ** min(self._n_waits, 16))
        # Without a database there is nothing to hear; reading the facts again will tell.
        with contextlib.suppress(StorageError), self.population.listening() as listener:
            # What changed just before is not heard of: the pause is short at first. Looking again
            # here would take a second connection of every worker that waits.
            listener.wait(pause)


def _n_bytes(outcome: Outcome) -> int:
    """What an outcome takes in the database."""
    kept = (outcome.weights, outcome.optimizer_state)
    return sum(len(one.payload) for one in kept if one is not None)


def _log_progress(plan: Plan) -> None:
    """Say how good the births of a generation are."""
    best = plan.certificate[0]
    if math.isinf(best):
        _logger.warning(
            "Everybody in generation %d has diverged: every fitness is NaN or infinite. "
            "Check the loss, the data and the ranges of the learning rates.",
            plan.generation - 1,
        )
    _logger.info(
        "Generation %d done: best fitness %.6g, mean of the %d best %.6g",
        plan.generation - 1,
        best,
        len(plan.certificate),
        plan.certificate[-1],
    )
