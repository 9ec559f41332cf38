"""Being asked to stop in the middle of an SGD step, and leaving it to others as it stands."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from torch import Tensor

from optuna_esgd.engine.individual import Claim, SlotKey
from optuna_esgd.engine.snapshot import Snapshot
from optuna_esgd.genome.codec import decode, encode
from optuna_esgd.trainer.progress import State

# An epoch shorter than this is waited for; copying its state would cost more than it is worth.
_LONG_EPOCH_SECONDS = 1.0


class Preempted(BaseException):
    """This worker was asked to stop; its work is saved and its slot given back."""


class Preemption:
    """Whether a worker has been asked to stop; safe to be asked from a signal handler.

    Attributes:
        is_requested: Set once, never unset.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._may_interrupt = False

    def request(self, *, interrupt: bool = True) -> None:
        """Ask to stop: at once where nothing would be lost by it, else as soon as may be.

        Args:
            interrupt: False in any thread but the one that works, which is then left to end its
                epoch: an exception can only be raised where one is.

        Raises:
            Preempted: In the middle of work that may be interrupted.
        """
        self.is_requested = True
        if interrupt and self._may_interrupt:
            self._may_interrupt = False
            raise Preempted

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Work that may be interrupted at any point, as far as ``allow`` does not say otherwise.

        Raises:
            Preempted: The request came before, or comes meanwhile.
        """
        self.allow(True)
        try:
            yield
        finally:
            self._may_interrupt = False

    def allow(self, may_interrupt: bool, /) -> None:
        """Say whether the work now going on may be interrupted.

        Raises:
            Preempted: It may, and the request came before.
        """
        self._may_interrupt = may_interrupt
        if may_interrupt and self.is_requested:
            self._may_interrupt = False
            raise Preempted


class Checkpoints(Protocol):
    """What an SGD step tells of its progress."""

    def load(self) -> Mapping[str, Tensor] | None:
        """Where an earlier worker got to; None where the step begins at birth."""
        ...

    def epoch_done(self, state: Callable[[], State]) -> None:
        """An epoch has ended, and others follow; ``state`` copies all that these need.

        Raises:
            Preempted: The worker was asked to stop.
        """
        ...


class NoCheckpoints:
    """An SGD step from its birth on, that nobody else will go on with."""

    def load(self) -> Mapping[str, Tensor] | None:
        """Nothing."""

    def epoch_done(self, state: Callable[[], State]) -> None:
        """Nothing to save."""


class CheckpointStore(Protocol):
    """The part of ``engine.ports.Population`` that keeps checkpoints."""

    def save_checkpoint(self, claim: Claim, state: Snapshot, *, lease_seconds: float) -> bool:
        """Keep how far the slot's work has come; False if the claim is lost."""
        ...

    def read_checkpoint(self, key: SlotKey) -> Snapshot | None:
        """What was last saved of the slot's work; None if nothing was."""
        ...


class SlotCheckpoints:
    """Saves a slot's progress: every so many seconds, and when the worker is asked to stop.

    Args:
        population: Where to.
        claim: On the slot.
        lease_seconds: Saving renews the lease.
        every_seconds: Seconds between two checkpoints; infinity for none but the last.
        preemption: Asked after every epoch.
    """

    def __init__(
        self,
        population: CheckpointStore,
        claim: Claim,
        *,
        lease_seconds: float,
        every_seconds: float,
        preemption: Preemption,
    ) -> None:
        self._population = population
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._every_seconds = every_seconds
        self._preemption = preemption
        self._saved_at = self._epoch_began_at = time.monotonic()
        self._unsaved: State | None = None

    def load(self) -> Mapping[str, Tensor] | None:
        """Where an earlier worker got to."""
        self._epoch_began_at = time.monotonic()
        if self._claim.attempt == 1:
            return None
        snapshot = self._population.read_checkpoint(self._claim.slot.key)
        self._epoch_began_at = time.monotonic()
        return None if snapshot is None else decode(snapshot.manifest, snapshot.payload)

    def epoch_done(self, state: Callable[[], State]) -> None:
        """Save if it is time to; keep a copy if the next epoch will take long."""
        self._preemption.allow(False)
        now = time.monotonic()
        is_long = now - self._epoch_began_at > _LONG_EPOCH_SECONDS
        is_due = now - self._saved_at > self._every_seconds
        is_over = self._preemption.is_requested
        self._unsaved = state() if is_long or is_due or is_over else None
        if is_due:
            self.save()
        self._epoch_began_at = time.monotonic()
        # Whoever is asked to stop in a short epoch finishes it.
        self._preemption.allow(is_long or is_over)

    def save(self) -> None:
        """Save the last copy, unless it has been."""
        if self._unsaved is None:
            return
        self._population.save_checkpoint(
            self._claim, Snapshot(*encode(self._unsaved)), lease_seconds=self._lease_seconds
        )
        self._unsaved = None
        self._saved_at = time.monotonic()
