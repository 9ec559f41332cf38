"""What a live page shows: one JSON text per study, made again only when something changed."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import optuna
import plotly.graph_objects as go

from optuna_esgd.dashboard.assets import Compressed, compress
from optuna_esgd.dashboard.studies import Studies
from optuna_esgd.engine.individual import Chronicle, Individual
from optuna_esgd.store.opening import open_results
from optuna_esgd.visualization import draw_all, key_numbers
from optuna_esgd.visualization.history import find_scales, history_of
from optuna_esgd.visualization.key_numbers import KeyNumbers

# However many pages are open, a study is read at most this often, and four fifths of the time
# are left to others.
_SHORTEST_PAUSE_SECONDS = 1.0
_PAUSE_PER_WORK = 4.0
_MOST_STUDIES = 8
_MOST_ROWS = 100
# Its marks are pieces of work, of all individuals of a cohort.
_WITHOUT_TRIALS = frozenset({"worker-timeline"})


class _Seen(NamedTuple):
    study_id: int
    uuid: str
    chronicle: Chronicle


class _Watched:
    """One study between two polls."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.next_read = -math.inf
        self.seen: _Seen | None = None
        self.state: Compressed | None = None


class States:
    """The states of the studies that somebody looks at."""

    def __init__(self, studies: Studies) -> None:
        self._studies = studies
        self._lock = threading.Lock()
        self._watched: OrderedDict[str, _Watched] = OrderedDict()

    def get(self, name: str) -> Compressed:
        """The state of a study as JSON, at most a second old; large studies' some seconds.

        Raises:
            StudyError: There is no such study, or it has no population.
            StorageError: The database cannot be reached, or is of another version.
        """
        watched = self._watch(name)
        with watched.lock:
            began = time.monotonic()
            if watched.state is not None and began < watched.next_read:
                return watched.state
            study = self._studies.load(name)
            population = open_results(study, self._studies.store)
            seen = _Seen(study._study_id, population.uuid, population.chronicle())
            if watched.state is None or seen != watched.seen:
                watched.state = _make_state(study, seen.chronicle, population.configuration)
                watched.seen = seen
            ended = time.monotonic()
            pause = max(_SHORTEST_PAUSE_SECONDS, _PAUSE_PER_WORK * (ended - began))
            watched.next_read = ended + pause
            return watched.state

    def _watch(self, name: str) -> _Watched:
        with self._lock:
            watched = self._watched.setdefault(name, _Watched())
            self._watched.move_to_end(name)
            if len(self._watched) > _MOST_STUDIES:
                self._watched.popitem(last=False)
            return watched


def _make_state(
    study: optuna.Study, chronicle: Chronicle, configuration: Mapping[str, Any]
) -> Compressed:
    scales = find_scales(study, chronicle)
    history = history_of(chronicle, configuration, study.study_name, scales)
    figures = [_describe_figure(name, figure) for name, figure in draw_all(history).items()]
    facts = {
        "study": {
            "id": study._study_id,
            "name": study.study_name,
            "direction": "maximize" if history.maximize else "minimize",
        },
        "numbers": _describe_numbers(key_numbers(history)),
        "individuals": _describe_stored(chronicle, maximize=history.maximize),
    }
    # Plotly writes its own JSON; it is put in as it is.
    body = f'{json.dumps(facts, allow_nan=False)[:-1]}, "figures": [{", ".join(figures)}]}}'
    return compress(body.encode(), level=5)


def _describe_figure(name: str, figure: go.Figure) -> str:
    figure.update_layout(template=go.layout.Template())  # the page has its own, light and dark
    opens_trials = json.dumps(name not in _WITHOUT_TRIALS)
    return (
        f'{{"name": {json.dumps(name)}, "opens_trials": {opens_trials}, '
        f'"figure": {figure.to_json()}}}'
    )


def _describe_numbers(numbers: KeyNumbers) -> dict[str, Any]:
    ancestor = numbers.common_ancestor
    return {
        "n_individuals": numbers.n_individuals,
        "generation": numbers.generation,
        "best_value": numbers.best_value,
        "best_trial": numbers.best_trial,
        "common_ancestor": None if ancestor is None else ancestor._asdict(),
        "effective_founders": numbers.effective_founders,
        "back_off_rate": numbers.back_off_rate,
    }


def _describe_stored(chronicle: Chronicle, *, maximize: bool) -> dict[str, Any]:
    """Those whose weights can be downloaded, best first; the first of many."""
    stored = [one for one in chronicle.individuals if one.is_stored and one.fitness is not None]
    stored.sort(key=lambda one: (one.fitness_or_inf, one.reference))
    rows = [_describe_individual(one, maximize=maximize) for one in stored[:_MOST_ROWS]]
    return {"n_stored": len(stored), "rows": rows}


def _describe_individual(one: Individual, *, maximize: bool) -> dict[str, Any]:
    fitness = one.fitness_or_inf
    value = (-fitness if maximize else fitness) if math.isfinite(fitness) else None
    return {
        "reference": str(one.reference),
        "trial": one.trial_number,
        "species": one.species,
        "birth": one.birth,
        "value": value,
        "n_back_offs": one.n_back_offs,
        "hyperparameters": {
            name: value if not isinstance(value, float) or math.isfinite(value) else str(value)
            for name, value in one.hyperparameters.items()
        },
    }
