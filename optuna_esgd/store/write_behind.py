"""Writing what became of a slot while the next one is worked on."""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from optuna_esgd.engine.individual import (
    NO_FACTS,
    Claim,
    Facts,
    Individual,
    Onward,
    Plan,
    Reference,
    Slot,
    SlotKey,
)
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.errors import EsgdError, StorageError
from optuna_esgd.store.lease import keep_lease

_logger = logging.getLogger(__name__)

# Where a slot takes less, two threads that take turns in Python are no faster than one.
_SHORT_SECONDS = 0.03


@dataclass(frozen=True)
class _Writing:
    """What is being written, and the claim that has been answered meanwhile.

    Attributes:
        done: Whether it was written as answered.
        claim: To go on with.
        is_new: Whether the claim is made by what is being written; else it was made before.
    """

    done: Future[bool]
    claim: Claim
    is_new: bool

    @property
    def is_done(self) -> bool:
        return self.done.done()

    @property
    def is_written(self) -> bool:
        """Whether all that was answered is so."""
        return self.is_done and self.done.exception() is None and self.done.result()


class WriteBehind:
    """One worker's way to a population: slots are finished in a thread, one after the other.

    ``finish_and_go_on`` answers what will be if the slot is still the caller's, which it almost
    always is. Everything else that is asked or written waits until that is written. So what a
    worker reads is never older than what it has done, at most one slot is finished and not yet
    written, and if the process dies then, its lease runs out like that of any other.

    An answer can turn out wrong in one way only: the lease was lost. Then the claim it gave does
    not exist either, and is refused as if it were lost; what was concluded from it is doubtful.

    Args:
        population: Where to.

    Attributes:
        population: As given; who uses it directly does not wait.
        is_doubtful: Whether something was not written as answered since the facts were read.
    """

    def __init__(self, population: Population) -> None:
        self.population = population
        self.is_doubtful = False
        self._thread: ThreadPoolExecutor | None = None
        self._writing: _Writing | None = None
        self._queued: list[Future[object]] = []
        self._void: Claim | None = None
        self._answered_at = -math.inf  # by the monotonic clock
        self._is_short = False

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Write behind until the block ends; outside of it everything is written at once.

        Raises:
            Exception: What was queued last raised it, and nobody has been told so far.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="esgd-writing") as thread:
            self._thread, self._queued = thread, []
            try:
                yield
            finally:
                self._thread = None
        self.settle()
        self.check()

    def settle(self) -> None:
        """Wait until what was answered is written.

        Raises:
            EsgdError: It could not be written.
        """
        writing = self._writing
        if writing is None:
            return
        try:
            writing.done.result()
        finally:
            # An interruption may come between any two words. Then this is done once more, as long
            # as the last line has not been reached; and what was written is asked, not remembered.
            if writing.is_done and not writing.is_written:
                self._void = writing.claim if writing.is_new else None
                self.is_doubtful = True
            if writing.is_done:
                self._writing = None

    def queue(self, task: Callable[[], object]) -> None:
        """Do something after what is being written, while work goes on if that takes a while.

        What it raises meanwhile is raised by ``check``.
        """
        if self._thread is None or self._is_short:
            self.settle()
            task()
        else:
            self._queued.append(self._thread.submit(task))

    def check(self) -> None:
        """Raise what a queued task has raised: not in a slot's work, which has no part in it.

        Raises:
            Exception: The first of them.
        """
        while self._queued and self._queued[0].done():
            self._queued.pop(0).result()

    def finish_and_go_on(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        plan: Plan | None,
        keys: Sequence[SlotKey],
        lease_seconds: float,
    ) -> Onward:
        """As ``Population.finish_and_go_on``; where work goes on, before it is written.

        A plan and a claim that follow from what turned out wrong are left out.
        """
        with self._timing_work():
            if self._is_void(claim):
                return Onward(is_finished=False)
            if self.is_doubtful:
                plan, keys = None, ()
            if self._thread is not None and keys and not self._is_short:
                following = self._claim_ahead(claim.worker, plan, keys, lease_seconds)
                if following is not None:
                    keeping = ExitStack()  # from now on, however long the thread is busy
                    keeping.enter_context(keep_lease(self, claim, lease_seconds))
                    planned = () if plan is None else plan.slot_keys
                    new = following if following.slot.key in planned else None
                    done = self._thread.submit(
                        self._write, keeping, claim, outcomes, plan, lease_seconds, new
                    )
                    self._writing = _Writing(done, following, is_new=new is not None)
                    return Onward(is_finished=True, is_planned=plan is not None, claim=following)
                keys = ()
            return self.population.finish_and_go_on(
                claim, outcomes, plan=plan, keys=keys, lease_seconds=lease_seconds
            )

    @contextmanager
    def _timing_work(self) -> Iterator[None]:
        """Know whether the work since the last answer was short; and answer."""
        self._is_short = time.monotonic() < self._answered_at + _SHORT_SECONDS
        try:
            yield
        finally:
            self._answered_at = time.monotonic()

    def _is_void(self, claim: Claim) -> bool:
        """Whether a claim was answered that then was not made; another may look the same."""
        self.settle()
        return claim is self._void

    def _claim_ahead(
        self, worker: str, plan: Plan | None, keys: Sequence[SlotKey], lease_seconds: float
    ) -> Claim | None:
        """The claim to go on with: that of a new plan's first slot is known before it is made."""
        planned = {} if plan is None else dict(zip(plan.slot_keys, plan.cohorts, strict=True))
        there = [key for key in keys if key not in planned]
        if there:
            made = self.population.claim_one_of(there, worker=worker, lease_seconds=lease_seconds)
            if made is not None:
                return made
        key = min((key for key in keys if key in planned), default=None)
        if key is None:
            return None
        numbers = tuple(planned[key])
        slot = Slot(key=key, numbers=numbers, state="claimed", is_claimable=False, attempt=1)
        return Claim(slot=slot, attempt=1, worker=worker)

    def _write(
        self,
        keeping: ExitStack,
        claim: Claim,
        outcomes: Sequence[Outcome],
        plan: Plan | None,
        lease_seconds: float,
        new: Claim | None,
    ) -> bool:
        """Finish the slot, in the thread; whether all became as it was answered.

        Args:
            keeping: Keeps the lease on the slot.
            claim: On the slot.
            outcomes: Of its individuals.
            plan: What comes next, if that is known.
            lease_seconds: Of the claim to go on with.
            new: That claim, if it is made here together with the plan.
        """
        try:
            with keeping:
                onward = self.population.finish_and_go_on(
                    claim,
                    outcomes,
                    plan=plan,
                    keys=() if new is None else (new.slot.key,),
                    lease_seconds=lease_seconds,
                )
        except StorageError:
            raise
        except Exception as error:
            _logger.exception("The outcome of %s cannot be stored.", claim.slot.key)
            self.population.release(claim, failure=traceback.format_exc())
            if isinstance(error, EsgdError):
                raise
            return False
        if not onward.is_finished:
            warn_of_lost_lease(claim)
            return False
        # Without a barrier somebody else's plan by the same name is of other individuals.
        is_planned = plan is None or onward.is_planned
        claim_made = onward.claim
        is_claimed = new is None or (claim_made is not None and claim_made.attempt == new.attempt)
        is_as_answered = is_planned and is_claimed
        if claim_made is not None and not is_as_answered:
            self.population.release(claim_made)  # nobody knows of it
        return is_as_answered

    def renew(self, claim: Claim, *, lease_seconds: float) -> bool:
        """Prolong a lease; nothing is to be done for one that is still being made.

        Asked by another thread as well, at any moment.
        """
        writing = self._writing
        if writing is not None and writing.is_new and claim is writing.claim:
            if not writing.is_done:
                return True
            if not writing.is_written:  # the one that looks the same is somebody else's
                return False
        return claim is not self._void and self.population.renew(
            claim, lease_seconds=lease_seconds
        )

    def facts(self, before: Facts = NO_FACTS) -> Facts:
        """See ``Population``; after this nothing is doubtful. Checks what was queued."""
        self.settle()
        self.check()
        self.is_doubtful = False
        return self.population.facts(before)

    def commit_plan(self, plan: Plan) -> bool:
        """See ``Population``; False for a plan that may follow from what is not so."""
        self.settle()
        return not self.is_doubtful and self.population.commit_plan(plan)

    def claim_one_of(
        self, keys: Sequence[SlotKey], *, worker: str, lease_seconds: float
    ) -> Claim | None:
        """See ``Population``; None if these may be slots of another plan by the same name."""
        self.settle()
        if self.is_doubtful:
            return None
        return self.population.claim_one_of(keys, worker=worker, lease_seconds=lease_seconds)

    def release(self, claim: Claim, *, failure: str | None = None) -> bool:
        """See ``Population``."""
        return not self._is_void(claim) and self.population.release(claim, failure=failure)

    def save_checkpoint(self, claim: Claim, state: Snapshot, *, lease_seconds: float) -> bool:
        """See ``Population``."""
        return not self._is_void(claim) and self.population.save_checkpoint(
            claim, state, lease_seconds=lease_seconds
        )

    def read_checkpoint(self, key: SlotKey) -> Snapshot | None:
        """See ``Population``."""
        self.settle()
        return self.population.read_checkpoint(key)

    def individuals(self, *, generation: int | None = None) -> Sequence[Individual]:
        """See ``Population``."""
        self.settle()
        return self.population.individuals(generation=generation)

    def read_weights(self, reference: Reference) -> Snapshot:
        """See ``Population``."""
        self.settle()
        return self.population.read_weights(reference)

    def read_optimizer_state(self, reference: Reference) -> Snapshot | None:
        """See ``Population``."""
        self.settle()
        return self.population.read_optimizer_state(reference)


def warn_of_lost_lease(claim: Claim) -> None:
    """Say that somebody else has the slot now."""
    _logger.warning(
        "The lease on %s ran out before its work was done; another worker has it now and this "
        "result is dropped. Raise lease_seconds if this happens often.",
        claim.slot.key,
    )
