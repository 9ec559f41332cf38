"""Who each running trial is: found out once per trial, when it asks for its first parameter."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias
from weakref import WeakKeyDictionary

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.sampler.finished_trials import FinishedTrials, trials_before
from optuna_esgd.sampler.hyperparameter_evolution import Founder, Offspring, next_birth

# Trials that were asked for but never told would otherwise be remembered for ever.
_MAX_REMEMBERED = 10_000


_Key: TypeAlias = tuple[int, datetime | None]


@dataclass
class _StudyBirths:
    """One study's part.

    Attributes:
        began: When its first trial did: SQLite gives the id of a deleted study to the next one.
        finished: Its finished trials.
        by_trial: Births by the trial's number and start.
    """

    began: datetime | None
    finished: FinishedTrials
    by_trial: dict[_Key, Founder | Offspring] = field(default_factory=dict)


class Births:
    """One process's births in studies without weights; safe for the threads of ``n_jobs``."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._studies: WeakKeyDictionary[BaseStorage, dict[int, _StudyBirths]] = (
            WeakKeyDictionary()
        )
        self._lock = threading.Lock()

    def find(self, study: optuna.Study, trial: FrozenTrial) -> Founder | Offspring:
        """The birth of a running trial; all of its parameters come from the same one."""
        key = _key(trial)
        with self._lock:
            known = self._known(study)
            birth = None if known is None else known.by_trial.get(key)
        if birth is None:
            before = trials_before(study, trial.number)
            births = self._of_study(study, trial if trial.number == 0 else before[0])
            candidates = births.finished.read(before)
            birth = next_birth(self._configuration, trial.number, candidates)
            with self._lock:
                births.by_trial[key] = birth
                if len(births.by_trial) > _MAX_REMEMBERED:
                    del births.by_trial[next(iter(births.by_trial))]
        return birth

    def forget(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Forget a trial that has ended."""
        with self._lock:
            known = self._known(study)
            if known is not None:
                known.by_trial.pop(_key(trial), None)

    def _known(self, study: optuna.Study) -> _StudyBirths | None:
        return self._studies.get(study._storage, {}).get(study._study_id)

    def _of_study(self, study: optuna.Study, first: FrozenTrial | None) -> _StudyBirths:
        """A study's part, begun anew if its first trial is another one than it was."""
        began = None if first is None else first.datetime_start
        with self._lock:
            known = self._known(study)
            if known is None or known.began != began:
                known = self._new_study(study, began)
                self._studies.setdefault(study._storage, {})[study._study_id] = known
            return known

    def _new_study(self, study: optuna.Study, began: datetime | None) -> _StudyBirths:
        numbers = self._configuration
        return _StudyBirths(
            began,
            FinishedTrials(
                n_elites=numbers.n_elites,
                n_newest=numbers.population_size + numbers.n_offspring - numbers.n_elites,
                maximize=study.direction == StudyDirection.MAXIMIZE,
            ),
        )


def _key(trial: FrozenTrial) -> _Key:
    return trial.number, trial.datetime_start
