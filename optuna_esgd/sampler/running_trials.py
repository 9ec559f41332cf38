"""Running trials: those of this process are stood by, those of dead workers fail with a reason."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from optuna_esgd.engine.ports import Population
from optuna_esgd.errors import EsgdError, StorageError
from optuna_esgd.store import POPULATION_ATTRIBUTE
from optuna_esgd.store.lease import RENEWALS_PER_LEASE

_logger = logging.getLogger(__name__)

_REASON = "No worker stood by this trial for a whole lease: it died, or lost its database."


@dataclass
class _Watch:
    """The running trials of one study in this process.

    Attributes:
        population: Where leases are renewed.
        lease_seconds: Of the population's configuration.
        numbers: Running trials of this process.
        looked_at: When lost trials were last looked for; monotonic seconds.
        is_over: Set to end the thread that renews.
    """

    population: Population
    lease_seconds: float
    numbers: set[int] = field(default_factory=set)
    looked_at: float = -float("inf")
    is_over: threading.Event | None = None


class RunningTrials:
    """One process's running trials, by study; only of studies that have a population.

    Safe for the threads of ``n_jobs``. While there are any, a thread renews their leases.
    """

    def __init__(self) -> None:
        self._watches: WeakKeyDictionary[optuna.storages.BaseStorage, dict[int, _Watch]] = (
            WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    def begin(self, study: optuna.Study, trial_number: int, *, lease_seconds: float) -> None:
        """A trial begins; now and then those are looked for that nobody will end."""
        watch = self._find(study)
        if watch is None:
            population = known_population(study)
            if population is None:
                return
            self.watch(study, trial_number, population, lease_seconds=lease_seconds)
            return
        self._add(watch, trial_number)
        if time.monotonic() - watch.looked_at > watch.lease_seconds:
            self.fail_lost(study, watch.population, lease_seconds=watch.lease_seconds)

    def watch(
        self,
        study: optuna.Study,
        trial_number: int,
        population: Population,
        *,
        lease_seconds: float,
    ) -> None:
        """Stand by a trial that has begun, from now on until it ends."""
        with self._lock:
            studies = self._watches.setdefault(study._storage, {})
            watch = studies.setdefault(study._study_id, _Watch(population, lease_seconds))
            watch.lease_seconds = lease_seconds
        self._add(watch, trial_number)

    def stand_by(self, study: optuna.Study, trial_number: int) -> None:
        """Let everybody know at once that a watched trial's worker is alive: this will take long.

        Without it they know after a third of a lease.
        """
        watch = self._find(study)
        if watch is not None:
            watch.population.renew_trials([trial_number], lease_seconds=watch.lease_seconds)

    def end(self, study: optuna.Study, trial_number: int) -> None:
        """A trial is about to be told."""
        watch = self._find(study)
        if watch is None:
            return
        with self._lock:
            watch.numbers.discard(trial_number)
            if not watch.numbers and watch.is_over is not None:
                watch.is_over.set()
                watch.is_over = None

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Fail a trial of this process, saying why; one that has ended is left as it is."""
        self.end(trial.study, trial.number)
        _fail(trial.study, trial._trial_id, reason)

    def fail_lost(
        self, study: optuna.Study, population: Population, *, lease_seconds: float
    ) -> int:
        """Fail the running trials whose workers are gone; others may show their individuals.

        May be called by anybody at any time, and be killed at any point: what is left to do is
        seen again next time.

        Returns:
            How many running trials are left.
        """
        watch = self._find(study)
        if watch is not None:
            watch.looked_at = time.monotonic()
        seen = _read_trials(study, (TrialState.RUNNING, TrialState.FAIL))
        running = {one.number: one._trial_id for one in seen if not one.state.is_finished()}
        lost = population.lost_trials(running.keys(), lease_seconds=lease_seconds)
        for number in lost:
            _logger.warning("Trial %d: %s", number, _REASON)
            _fail(study, running[number], _REASON)
        failed = {one.number for one in seen if one.state.is_finished()} | set(lost)
        if failed:
            population.unassign_trials(failed)
        return len(running) - len(lost)

    def _find(self, study: optuna.Study) -> _Watch | None:
        with self._lock:
            return self._watches.get(study._storage, {}).get(study._study_id)

    def _add(self, watch: _Watch, trial_number: int) -> None:
        with self._lock:
            watch.numbers.add(trial_number)
            if watch.is_over is None:
                watch.is_over = threading.Event()
                threading.Thread(
                    target=self._renew,
                    args=(watch, watch.is_over),
                    name="esgd-trials",
                    daemon=True,
                ).start()

    def _renew(self, watch: _Watch, is_over: threading.Event) -> None:
        while not is_over.wait(watch.lease_seconds / RENEWALS_PER_LEASE):
            with self._lock:
                numbers = sorted(watch.numbers)
            with contextlib.suppress(StorageError):  # the database may come back in time
                watch.population.renew_trials(numbers, lease_seconds=watch.lease_seconds)


def _read_trials(study: optuna.Study, states: tuple[TrialState, ...]) -> list[FrozenTrial]:
    """Straight from the database: Optuna's cache would first read all trials there are."""
    # SQLAlchemy only where there are weights.
    from optuna_esgd.store.storages import unwrap  # noqa: PLC0415

    storage = unwrap(study._storage)
    return storage.get_all_trials(study._study_id, deepcopy=False, states=states)


def known_population(study: optuna.Study) -> Population | None:
    """The population of a study that this process has not trained yet, if it can be found."""
    if POPULATION_ATTRIBUTE not in study._storage.get_study_user_attrs(study._study_id):
        return None
    # SQLAlchemy only where there are weights.
    from optuna_esgd.store.opening import find_population  # noqa: PLC0415

    with contextlib.suppress(EsgdError):  # it lives in a database that only the objective knows
        return find_population(study)
    return None


def _fail(study: optuna.Study, trial_id: int, reason: str) -> None:
    with contextlib.suppress(UpdateFinishedTrialError):
        study._storage.set_trial_user_attr(trial_id, "failure", reason)
        study._storage.set_trial_state_values(trial_id, state=TrialState.FAIL)
