"""A study's finished trials, as far as evolution looks back; read incrementally.

Reading costs about the same at 10 and at 10⁴ trials: only trials that were not finished at the
last reading are looked at again, and only those that can still breed are kept.
"""

from __future__ import annotations

import math
import threading
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.storages import _CachedStorage
from optuna.trial import FrozenTrial, TrialState

from optuna_esgd.evolution.fitness import clean_fitness
from optuna_esgd.evolution.space import FloatRange, IntRange, Range, contains
from optuna_esgd.sampler.coordinates import to_coordinate


@dataclass(frozen=True, order=True)
class FinishedTrial:
    """What evolution needs of a finished trial; ordered from best to worst, then by age.

    Attributes:
        fitness: Lower is better; inf for a diverged or infeasible one.
        number: The trial's number.
        params: Its parameters.
    """

    fitness: float
    number: int
    params: Mapping[str, Any] = field(compare=False)
    _coordinates: dict[str, tuple[Range, float | None]] = field(
        default_factory=dict, compare=False, repr=False
    )

    def has(self, name: str, range_: Range) -> bool:
        """Whether it has a value for this parameter that the range holds."""
        return name in self.params and contains(range_, self.params[name])

    def coordinate(self, name: str, range_: FloatRange | IntRange) -> float | None:
        """Where its value of a number lies in the range; None if it has none the range holds.

        Remembered for the latest range, since one trial is a survivor many times.
        """
        known = self._coordinates.get(name)
        if known is None or known[0] is not range_:
            value = self.params[name] if self.has(name, range_) else None
            known = (range_, None if value is None else to_coordinate(range_, value))
            self._coordinates[name] = known
        return known[1]


@dataclass(frozen=True)
class Candidates:
    """Who can survive at this moment.

    Attributes:
        n_finished: How many trials have finished in all.
        trials: The best of all, best first, then the newest of the rest.
    """

    n_finished: int
    trials: tuple[FinishedTrial, ...]


class KnownTrials:
    """What Optuna's cache of a database knows of a study's trials, without asking for news.

    Args:
        by_number: Its own dictionary.
    """

    def __init__(self, by_number: Mapping[int, FrozenTrial]) -> None:
        self._by_number = by_number

    def __len__(self) -> int:
        return len(self._by_number)

    def __getitem__(self, number: int) -> FrozenTrial | None:
        return self._by_number.get(number)


def trials_before(study: optuna.Study, number: int) -> Sequence[FrozenTrial] | KnownTrials:
    """The trials of a study, by number, as they were when one of them was asked for, or newer.

    Asking for a trial reads what has changed in the database. Reading it again would take as long
    as all the rest of a trial, and the list of ten thousand trials milliseconds each time.
    """
    storage = study._storage
    if isinstance(storage, _CachedStorage):
        known = storage._studies.get(study._study_id)
        if known is not None and all(one in known.trials for one in range(number)[-1:]):
            return KnownTrials(known.trials)
    # Optuna keeps this for the thread that runs the trial; ``study.trials`` copies every trial.
    return study._get_trials(deepcopy=False, use_cache=True)


class FinishedTrials:
    """The candidates of one study: a function of the set of finished trials, whoever reads."""

    def __init__(self, *, n_elites: int, n_newest: int, maximize: bool) -> None:
        """Begin before the first trial.

        Args:
            n_elites: m, how many of the best are candidates for ever.
            n_newest: How many of the newest others are.
            maximize: Direction of the study.
        """
        self._n_elites = n_elites
        self._n_newest = n_newest
        self._maximize = maximize
        self._n_seen = 0
        self._open: list[int] = []
        self._n_finished = 0
        self._elites: list[FinishedTrial] = []
        # By number. As many again as there are elites, since those do not count as the newest.
        self._newest: list[tuple[int, FinishedTrial]] = []
        self._lock = threading.Lock()

    def read(self, trials: Sequence[FrozenTrial] | KnownTrials) -> Candidates:
        """Take in what has finished since the last reading.

        Args:
            trials: All trials of the study, by number.
        """
        with self._lock:
            still_open = []
            n_trials = len(trials)
            for position in (*self._open, *range(self._n_seen, n_trials)):
                # Another thread may have read a longer list before.
                trial = trials[position] if position < n_trials else None
                if trial is None or not trial.state.is_finished():
                    still_open.append(position)
                elif trial.state == TrialState.COMPLETE:
                    self._add(trial)
            self._open = still_open
            self._n_seen = max(self._n_seen, n_trials)
            return self._candidates()

    def _add(self, trial: FrozenTrial) -> None:
        finished = FinishedTrial(self._fitness(trial), trial.number, trial.params)
        self._n_finished += 1
        insort(self._elites, finished)
        del self._elites[self._n_elites :]
        insort(self._newest, (finished.number, finished))
        del self._newest[: -(self._n_elites + self._n_newest)]

    def _fitness(self, trial: FrozenTrial) -> float:
        if any(violation > 0 for violation in trial.constraints.values()):
            return math.inf
        value = trial.value
        assert value is not None  # noqa: S101  (Optuna completes no trial without one)
        return clean_fitness(-value if self._maximize else value)

    def _candidates(self) -> Candidates:
        elites = {one.number for one in self._elites}
        rest = [one for number, one in self._newest if number not in elites]
        newest = rest[max(len(rest) - self._n_newest, 0) :]
        return Candidates(self._n_finished, (*self._elites, *newest))
