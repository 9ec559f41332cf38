"""The work loop: decide, act, write. One worker's view of Algorithm 1."""

from __future__ import annotations

import contextlib
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from optuna_esgd.engine.actions import Action, Commit, Evaluate, Stop, Train, Wait
from optuna_esgd.engine.collecting import collection_interval
from optuna_esgd.engine.configuration import Configuration, cohorts
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.foresight import (
    Ahead,
    after_plan,
    is_pure,
    is_round_finished,
    look_ahead,
)
from optuna_esgd.engine.individual import (
    NO_FACTS,
    Claim,
    Individual,
    Onward,
    Plan,
    Slot,
    SlotKey,
)
from optuna_esgd.engine.ports import Explore, Population
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.errors import StorageError
from optuna_esgd.store.lease import RENEWALS_PER_LEASE, keep_lease, worker_name
from optuna_esgd.store.write_behind import WriteBehind, warn_of_lost_lease
from optuna_esgd.trainer.preemption import (
    Checkpoints,
    Preempted,
    Preemption,
    SlotCheckpoints,
)
from optuna_esgd.trainer.task import shown_value

_logger = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS = 0.02
_LONGEST_WAIT_SECONDS = 1.0
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


class WorkLoop:
    """One worker on one population.

    Args:
        store: A population, or the way to it that the workshop reads through as well.
        configuration: The run's settings.
        explore: Where new hyperparameters come from.
        workshop: Does the work of slots.

    Attributes:
        population: Where facts are read and outcomes written.
        configuration: The run's settings.
        workshop: Does the work of slots.
        preemption: Asks this worker to stop.
        checkpoint_seconds: Seconds between two checkpoints of one SGD step.
        claims_ahead: Whether this worker goes on after a slot for sure, and so may claim the next
            one together with finishing it. Who stops all the same calls ``give_back``.
        counts_first_failures: Whether user code that raises before anybody has been trained costs
            the slot a try. Not where the worker ends with it, and is started again once it is
            mended.
        tell: Is told of everyone in a generation when one of its rounds has ended.
        forget: Is called when some of what was told, or trained here, may not be what is stored.
    """

    def __init__(
        self,
        store: Population | WriteBehind,
        configuration: Configuration,
        explore: Explore,
        workshop: Workshop,
    ) -> None:
        self._store = store if isinstance(store, WriteBehind) else WriteBehind(store)
        self.population = self._store.population
        self.configuration = configuration
        self._explore = explore
        self.workshop = workshop
        self.preemption = Preemption()
        self.checkpoint_seconds = math.inf
        self.claims_ahead = False
        self.counts_first_failures = True
        self._claim: Claim | None = None
        self._claimed_at = 0.0  # by the monotonic clock, at the latest
        self.tell: Callable[[Sequence[Individual]], None] = lambda _everyone: None
        self.forget: Callable[[], None] = lambda: None
        self._n_waits = 0
        self._facts = self._read = NO_FACTS  # the latter as they were in the database
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
        if self._rest is None and not self._are_foreseen:
            self._store.settle()  # a doubt is to be known before the facts are read
        if self._store.is_doubtful:
            self._begin_anew()
        if self._rest is not None:
            return self._rest
        if not self._are_foreseen:
            self._facts = self._read = self._store.facts(self._read)
        self._are_foreseen = False
        return decide(self._facts, self.configuration, self._explore)

    def _begin_anew(self) -> None:
        """Somebody else has finished what was taken for this worker's: perhaps in another way."""
        self.give_back()
        self._rest, self._are_foreseen = None, False
        self.forget()

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

    @contextlib.contextmanager
    def working_ahead(self) -> Iterator[None]:
        """Go on for sure until the block ends: claim ahead, and write while work goes on.

        At the end all is written, and what was claimed ahead given back.
        """
        with self._store.opened():
            self.claims_ahead = True
            try:
                yield
                self._store.settle()
            finally:
                self.claims_ahead = False
                with contextlib.suppress(StorageError):  # then its lease runs out by itself
                    self.give_back()

    def give_back(self) -> None:
        """Let others have a slot that was claimed ahead."""
        claim, self._claim = self._claim, None
        if claim is not None:
            self._rest = None
            self._store.release(claim)

    def is_anybody_trained(self) -> bool:
        """Whether somebody, whoever it was, has finished an SGD step in this population."""
        if self._facts.is_anybody_trained:
            return True
        self._store.settle()
        return self.population.facts().is_anybody_trained

    def later(self, task: Callable[[], object]) -> None:
        """Do something when all that is finished is written, while work goes on.

        Raises:
            Exception: This task, or one before.
        """
        self._store.check()
        self._store.queue(task)

    def _commit(self, plan: Plan) -> None:
        """Store the plan."""
        if not self.configuration.asynchronous:
            self.tell(self._facts.individuals)
        if not self._store.commit_plan(plan):
            return
        if not self.configuration.asynchronous:
            self._facts, self._are_foreseen = after_plan(self._facts, plan), True
        self._clear_away(plan)

    def _clear_away(self, plan: Plan) -> None:
        """Who stored the plan also clears away, now and then, what nobody needs any more."""
        if plan.round > 0 or plan.generation == 0:
            return
        # Cohorts that are planned one by one take turns: so one that is stuck keeps the others
        # from clearing away in few generations only.
        all_cohorts = cohorts(self.configuration, self.configuration.population_size)
        n_plans = len(all_cohorts) // len(plan.cohorts)
        if plan.certificate and (plan.generation + plan.first_cohort) % n_plans == 0:
            _log_progress(plan, maximize=self.configuration.maximize)
        is_last = not self.configuration.wants(plan.generation + 1)
        # Whoever has not trained yet does not know how much there is, and collects.
        n_individuals = self.configuration.population_size
        interval = 1 if is_last else collection_interval(self._most_bytes, n_individuals)
        turn, n_since = divmod(plan.generation, interval)
        if n_since == 0 and (turn + plan.first_cohort) % n_plans == 0:
            self._store.queue(self.population.collect_garbage)

    def _work(self, action: Train | Evaluate) -> None:
        """Claim one of the slots and work it off."""
        claim = self._take_claim()
        if claim is None:
            claim = self._store.claim_one_of(
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
            self._store,
            claim,
            lease_seconds=lease_seconds,
            every_seconds=self.checkpoint_seconds,
            preemption=self.preemption,
        )
        try:
            with keep_lease(self._store, claim, lease_seconds):
                with self.preemption.interruptible():
                    outcomes = self._outcomes(claim.slot, checkpoints)
                ahead = self._look_ahead(claim, outcomes)
                onward = self._finish(claim, outcomes, ahead)
        except StorageError:
            raise  # nothing can be written now; the lease runs out by itself
        except Preempted:
            checkpoints.save()
            self._store.release(claim)
            raise
        except Exception:
            # With the lease lost, what was needed may be collected: that is not a failure.
            is_counted = self.counts_first_failures or self.is_anybody_trained()
            if self._store.release(claim, failure=traceback.format_exc() if is_counted else None):
                raise
            warn_of_lost_lease(claim)
            return
        except BaseException:  # Ctrl-C, SystemExit: not the slot's fault
            self._store.release(claim)
            raise
        self._go_on(claim, onward, ahead)

    def _take_claim(self) -> Claim | None:
        """The claim made ahead, if it is still held: nobody renews it before its work begins."""
        claim, self._claim = self._claim, None
        lease_seconds = self.configuration.lease_seconds
        is_fresh = time.monotonic() < self._claimed_at + lease_seconds / RENEWALS_PER_LEASE
        if claim is None or is_fresh:
            return claim
        return claim if self._store.renew(claim, lease_seconds=lease_seconds) else None

    def _look_ahead(self, claim: Claim, outcomes: Sequence[Outcome]) -> Ahead:
        """What is known to be when this slot is finished."""
        self._most_bytes = max(self._most_bytes, *map(_n_bytes, outcomes))
        if self.configuration.asynchronous and not is_pure(self._explore):
            return Ahead()  # nothing would come of reading the facts
        try:
            if self.configuration.asynchronous:
                self._store.settle()
                if self._store.is_doubtful:
                    return Ahead()  # what was read may follow from what is not so; see ``decide``
                # The others have gone on meanwhile.
                self._facts = self._read = self.population.facts(self._read)
            elif claim.slot.key[:2] != (self._facts.generation, self._facts.round):
                return Ahead()
            return look_ahead(self._facts, claim, outcomes, self.configuration, self._explore)
        except StorageError:
            raise  # the slot cannot be finished either
        except Exception:  # noqa: BLE001 - not the slot's fault; it comes up again in its turn
            return Ahead()

    def _finish(self, claim: Claim, outcomes: Sequence[Outcome], ahead: Ahead) -> Onward:
        """Store what became of a slot, together with what this worker would do next anyway."""
        keys: Sequence[SlotKey] = ()
        following = ahead.following or self._rest
        if self.claims_ahead and not self.preemption.is_requested and following is not None:
            keys = [slot.key for slot in following.slots]
        self._claimed_at = time.monotonic()
        onward = self._store.finish_and_go_on(
            claim,
            outcomes,
            plan=ahead.plan,
            keys=keys,
            lease_seconds=self.configuration.lease_seconds,
        )
        self._claim = onward.claim  # now: what is interrupted from here on must give it back
        if keys and onward.claim is None:
            self._rest = None
        return onward

    def _go_on(self, claim: Claim, onward: Onward, ahead: Ahead) -> None:
        """Know what has been stored, or will be."""
        if not onward.is_finished:
            warn_of_lost_lease(claim)
            self._rest = None
            return
        if ahead.facts is None or self._store.is_doubtful:
            return
        if self.configuration.asynchronous:
            if ahead.plan is not None and not onward.is_planned:
                return  # somebody else will have planned from other facts, which are to be read
            self._rest = None if onward.claim is None else ahead.following
            self._are_foreseen = onward.is_planned and onward.claim is None
        else:
            self._are_foreseen = is_round_finished(ahead.facts)
            if ahead.plan is not None:
                self.tell(ahead.facts.individuals)
        # With a barrier a plan that somebody else has stored is the same.
        self._facts = ahead.facts if ahead.planned is None else ahead.planned
        if ahead.plan is not None and onward.is_planned:
            self._clear_away(ahead.plan)

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


def _log_progress(plan: Plan, *, maximize: bool) -> None:
    """Say how good the births of a generation are, in the study's direction."""
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
        shown_value(best, maximize=maximize),
        len(plan.certificate),
        shown_value(plan.certificate[-1], maximize=maximize),
    )
