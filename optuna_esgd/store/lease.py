"""Keeping a claim alive while its work goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from optuna_esgd.engine.individual import Claim
from optuna_esgd.engine.ports import Population
from optuna_esgd.errors import StorageError

RENEWALS_PER_LEASE = 3


@contextmanager
def keep_lease(population: Population, claim: Claim, lease_seconds: float) -> Iterator[None]:
    """Renew the lease from a thread of its own until the block ends.

    A lost lease is not reported here: whatever is written with the claim afterwards is refused
    by its attempt number.
    """
    done = threading.Event()

    def renew_until_done() -> None:
        while not done.wait(lease_seconds / RENEWALS_PER_LEASE):
            try:
                if not population.renew(claim, lease_seconds=lease_seconds):
                    return
            except StorageError:
                continue  # the database may come back before the lease runs out

    thread = threading.Thread(target=renew_until_done, name="esgd-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
