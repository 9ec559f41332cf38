"""Running workers as users do, and what must not depend on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from optuna_esgd.engine.ports import Population
from optuna_esgd.store.opening import open_results
from optuna_esgd.store.storages import load_study
from optuna_esgd.store.verification import verify, verify_trials

FILE = Path(__file__).with_name("training.py")
POPULATION, GENERATIONS = 4, 3
_PATIENCE_SECONDS = 240


def start(command: str, url: str, *options: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start ``optuna-esgd COMMAND training.py:trainer``; the URL travels in the environment."""
    arguments = [f"{FILE}:trainer", "--study", "shared", *options]
    return subprocess.Popen(
        [sys.executable, "-m", "optuna_esgd.cli", command, *arguments],
        env={**os.environ, "ESGD_STORAGE": url, "OMP_NUM_THREADS": "1", **variables},
        stderr=subprocess.PIPE,
        # What a shell starts in the background ignores Ctrl-C; here it must not.
        preexec_fn=lambda: signal.signal(  # noqa: PLW1509 - no threads here
            signal.SIGINT, signal.default_int_handler
        ),
    )


def finish(process: subprocess.Popen[bytes], status: int = 0) -> str:
    """Wait for a process, which must end with this status; what it said."""
    _, errors = process.communicate(timeout=_PATIENCE_SECONDS)
    text = errors.decode()
    assert process.returncode == status, text
    return text


def find_study(url: str) -> optuna.Study:
    return load_study(url, "shared")


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again; what cannot be read yet is not so."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if is_so():
                return
        except Exception:  # noqa: BLE001 - the study, or its population, is not there yet
            pass
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def population_of(url: str) -> Population:
    return open_results(find_study(url))


def result(url: str) -> list[tuple[Any, ...]]:
    """Everything that must not depend on who did the work, checked for consistency."""
    study = find_study(url)
    population = open_results(study)
    assert verify(population) == []
    assert verify_trials(study, population) == []
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) == POPULATION * GENERATIONS
    assert study.get_trials(states=(TrialState.RUNNING,)) == []
    individuals = population.individuals()
    trained = [one for one in individuals if one.reference.round == 0]
    assert len(trained) == POPULATION * GENERATIONS
    assert len({one.trial_number for one in trained}) == len(trained)
    names = ("reference", "birth", "parents", "species", "hyperparameters", "weights", "fitness")
    counts = ("n_back_offs", "n_epochs", "n_gradients")
    return [tuple(getattr(one, name) for name in (*names, *counts)) for one in individuals]
