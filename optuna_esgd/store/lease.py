"""Keeping claims alive while their work goes on."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

from optuna_esgd.engine.individual import Claim

_logger = logging.getLogger(__name__)

RENEWALS_PER_LEASE = 3


def worker_name() -> str:
    """Who claims here: host, process and thread."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_native_id()}"


class Renewing(Protocol):
    """The part of ``engine.ports.Population`` that claims are kept alive with."""

    def renew(self, claim: Claim, *, lease_seconds: float) -> bool:
        """Prolong the lease; False if the claim is lost."""
        ...


@contextmanager
def keep_lease(population: Renewing, claim: Claim, lease_seconds: float) -> Iterator[None]:
    """Renew the lease from another thread until the block ends.

    A lost lease is not reported here: whatever is written with the claim afterwards is refused
    by its attempt number.
    """
    lease = _Lease(population, claim, lease_seconds)
    with _keepers_lock:
        keeper = _keepers.setdefault(population, _Keeper())
    keeper.add(lease)
    try:
        yield
    finally:
        keeper.remove(lease)


@dataclass(eq=False)
class _Lease:
    """One claim that is to be kept alive."""

    population: Renewing
    claim: Claim
    seconds: float
    due: float = 0.0

    def wait_for_turn(self) -> None:
        self.due = time.monotonic() + self.seconds / RENEWALS_PER_LEASE

    def renew(self) -> bool:
        try:
            return self.population.renew(self.claim, lease_seconds=self.seconds)
        except Exception:  # whatever it is must not end the renewal of other leases
            _logger.debug("A lease could not be renewed.", exc_info=True)
            return True  # the database may come back before the lease runs out


class _Keeper:
    """Renews the leases on one population's slots, all from one thread.

    Starting one and waiting for its end takes longer than a short slot's bookkeeping. So the
    thread sleeps on when a lease has ended, and looks what there is when it wakes up.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._leases: set[_Lease] = set()
        self._in_renewal: _Lease | None = None
        self._wakes_at = 0.0
        self._thread: threading.Thread | None = None

    def add(self, lease: _Lease) -> None:
        lease.wait_for_turn()
        with self._changed:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="esgd-lease", daemon=True)
                thread.start()  # which waits until this block ends
                self._thread, self._wakes_at = thread, lease.due
            self._leases.add(lease)
            if lease.due < self._wakes_at:
                self._changed.notify_all()

    def remove(self, lease: _Lease) -> None:
        """Nothing is renewed after this."""
        with self._changed:
            self._leases.discard(lease)
            while self._in_renewal is lease:
                self._changed.wait()

    def _run(self) -> None:
        with self._changed:
            while True:
                first = min(self._leases, key=lambda lease: lease.due, default=None)
                # The first one may have ended before this thread had its first turn.
                due = self._wakes_at if first is None else first.due
                seconds = due - time.monotonic()
                if seconds > 0:
                    self._wakes_at = due
                    self._changed.wait(seconds)
                elif first is not None:
                    self._renew(first)
                else:
                    break
            self._thread = None

    def _renew(self, lease: _Lease) -> None:
        """Renew a lease while others come and go; one that is lost is left alone."""
        self._in_renewal = lease
        self._wakes_at = 0.0
        self._changed.release()
        try:
            is_held = lease.renew()
        finally:
            self._changed.acquire()
            self._in_renewal = None
            self._changed.notify_all()
        lease.wait_for_turn()
        if not is_held:
            self._leases.discard(lease)


_keepers: WeakKeyDictionary[Renewing, _Keeper] = WeakKeyDictionary()
_keepers_lock = threading.Lock()


def _after_fork() -> None:
    """Threads stay behind, and may have held the locks."""
    global _keepers, _keepers_lock
    _keepers, _keepers_lock = WeakKeyDictionary(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
