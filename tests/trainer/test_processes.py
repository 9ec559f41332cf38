"""Any number of worker processes, killed or not: the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

import optuna_esgd as esgd
from optuna_esgd.native.compiler import FOLDER_VARIABLE
from optuna_esgd.store.opening import find_population
from optuna_esgd.store.verification import verify
from tests.native.builds import needs_compiler
from tests.trainer.worker_script import GENERATIONS, POPULATION

ROOT = Path(__file__).parents[2]


def start_worker(url: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.trainer.worker_script", url, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)


def finish(workers: list[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors.decode()


def digests(url: str) -> list[tuple[object, ...]]:
    """Everything that must not depend on who did the work."""
    study = optuna.load_study(study_name="shared", storage=esgd.create_storage(url))
    population = find_population(study)
    assert population is not None
    assert verify(population) == []
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) == POPULATION * GENERATIONS
    return [
        (
            one.reference,
            one.birth,
            one.parents,
            one.species,
            one.hyperparameters,
            one.weights,
            one.fitness,
            one.n_back_offs,
        )
        for one in population.individuals()
    ]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[object, ...]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('one')}/esgd.db"
    finish([start_worker(url)])
    return digests(url)


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_any_number_of_processes_makes_the_same_bits(
    n_workers: int, database_url: str, undisturbed: list[tuple[object, ...]]
) -> None:
    finish([start_worker(database_url) for _ in range(n_workers)])
    assert digests(database_url) == undisturbed


@needs_compiler
@pytest.mark.slow
def test_processes_that_compile_the_same_kernels_make_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name, n_workers in (("one", 1), ("many", 3)):
        monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / name))  # nothing in it yet
        url = f"sqlite:///{tmp_path}/{name}.db"
        workers = [start_worker(url, "mlp", "native") for _ in range(n_workers)]
        if n_workers > 1:
            victim = start_worker(url, "mlp", "native")
            time.sleep(3.5)
            victim.kill()
            victim.communicate()
        finish(workers)
        found.append(digests(url))
        assert any(one.suffix == ".so" for one in (tmp_path / name).iterdir())
    assert found[0] == found[1]


@pytest.mark.slow
def test_killed_workers_change_nothing(
    tmp_path: Path, undisturbed: list[tuple[object, ...]]
) -> None:
    url = f"sqlite:///{tmp_path}/esgd.db"
    for seconds in (3.0, 3.5, 4.0):
        victim = start_worker(url)
        time.sleep(seconds)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    survivor = start_worker(url)
    finish([survivor])
    study = optuna.load_study(study_name="shared", storage=esgd.create_storage(url))
    population = find_population(study)
    assert population is not None
    assert verify(population) == []
    assert [(one.reference, one.weights) for one in population.individuals()] == [
        (row[0], row[5]) for row in undisturbed
    ]
