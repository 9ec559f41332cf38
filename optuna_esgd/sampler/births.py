"""Who each running trial is: found out once per trial, when it asks for its first parameter."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
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


@dataclass
class _StudyBirths:
    """One study's part."""

    finished: FinishedTrials
    by_trial: dict[int, Founder | Offspring] = field(default_factory=dict)


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
        births = self._of_study(study)
        birth = births.by_trial.get(trial.number)
        if birth is None:
            candidates = births.finished.read(trials_before(study, trial.number))
            birth = next_birth(self._configuration, trial.number, candidates)
            with self._lock:
                births.by_trial[trial.number] = birth
                if len(births.by_trial) > _MAX_REMEMBERED:
                    del births.by_trial[next(iter(births.by_trial))]
        return birth

    def forget(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Forget a trial that has ended."""
        with self._lock:
            births = self._studies.get(study._storage, {}).get(study._study_id)
            if births is not None:
                births.by_trial.pop(trial.number, None)

    def _of_study(self, study: optuna.Study) -> _StudyBirths:
        with self._lock:
            studies = self._studies.setdefault(study._storage, {})
            if study._study_id not in studies:
                studies[study._study_id] = self._new_study(study)
            return studies[study._study_id]

    def _new_study(self, study: optuna.Study) -> _StudyBirths:
        numbers = self._configuration
        return _StudyBirths(
            FinishedTrials(
                n_elites=numbers.n_elites,
                n_newest=numbers.population_size + numbers.n_offspring - numbers.n_elites,
                maximize=study.direction == StudyDirection.MAXIMIZE,
            )
        )
