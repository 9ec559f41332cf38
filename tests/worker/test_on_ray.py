"""The same workers on a Ray cluster: stopped, robbed of a node, and the same bits."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from optuna.trial import TrialState

from optuna_esgd.cli import main
from optuna_esgd.engine.ports import Population
from optuna_esgd.store.opening import find_population
from optuna_esgd.store.storages import load_study
from optuna_esgd.store.verification import verify, verify_trials
from optuna_esgd.trainer.preemption import Preemption
from optuna_esgd.worker.loading import Workplace, open_workplace
from optuna_esgd.worker.work import work
from tests.databases import MakeDatabase
from tests.worker.runs import FILE

ROOT = Path(__file__).parents[2]
TRAINER = "train_on_ray.py:trainer"
POPULATION, GENERATIONS = 6, 2
PASSWORD = "not-to-be-seen"
PATIENCE_SECONDS = 300.0  # a hang is meant, not a busy machine


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a trainer and a closed gate; without any other."""
    folder = tmp_path / "project"
    shutil.copytree(Path(__file__).with_name("ray_project"), folder)
    (tmp_path / "gate").mkdir()
    (folder / "gate.txt").write_text(str(tmp_path / "gate"))
    return folder


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Three nodes of one, one and two cores and GPUs (Ray believes in them); small ones."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else a token is kept in the home folder
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Sockets lie in there, whose paths must be short.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 2**27, "include_dashboard": False}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "num_gpus": 2, **small},
        # Else it takes over SIGTERM, and its reaper may send one to all tests.
        shutdown_at_exit=False,
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1, num_gpus=1, **small)
    yield cluster
    cluster.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


class Run:
    """``optuna-esgd run --ray`` in a process of its own."""

    def __init__(self, cluster: Any, project: Path, url: str, *options: str) -> None:
        command = [sys.executable, "-m", "optuna_esgd.cli", "run", "--study", "s"]
        self.log = project.parent / f"{time.monotonic_ns()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *options, "--device", "cpu", "--ray", cluster.address, "--", TRAINER],
                cwd=project,
                env={**os.environ, "ESGD_STORAGE": url},
                stdout=log,
                stderr=log,
            )

    def wait_for(self, is_so: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def end(self) -> tuple[int, str]:
        status = self.process.wait(PATIENCE_SECONDS)
        return status, " ".join(self.log.read_text().split())


def waiting(project: Path) -> set[int]:
    """The processes that have come to the gate."""
    return {int(one.name) for one in (project.parent / "gate").iterdir() if one.name != "open"}


def population_of(url: str) -> Population:
    population = find_population(load_study(url, "s"))
    assert population is not None
    return population


def rows(url: str) -> list[tuple[Any, ...]]:
    """Everything that must not depend on who did the work."""
    names = ("birth", "parents", "species", "hyperparameters", "weights", "fitness", "n_epochs")
    return [
        (one.reference, *(getattr(one, name) for name in names))
        for one in population_of(url).individuals()
    ]


def train_alone(project: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run without Ray makes, in this process."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("train_on_ray", "gate"):  # forget them afterwards
        monkeypatch.setitem(sys.modules, name, sys)
        del sys.modules[name]
    workplace = Workplace(trainer=f"{project}/{TRAINER}", storage=url, study="s", device="cpu")
    trainer, study = open_workplace(workplace)
    assert work(trainer, study, checkpoint_seconds=300, preemption=Preemption())


def lose_a_busy_node(cluster: Any, busy: set[int]) -> None:
    """Kill one of the small nodes whose worker waits at the gate."""
    for node in cluster.worker_nodes:
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        if busy & {child.pid for child in raylet.children(recursive=True)}:
            cluster.remove_node(node, allow_graceful=False)
            return
    pytest.fail(f"none of the nodes has one of the workers {busy}")


@pytest.mark.slow
def test_stopped_and_robbed_of_a_node_the_run_makes_the_same_bits(
    cluster: Any,
    project: Path,
    make_database: MakeDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = make_database("postgresql").replace("@", f":{PASSWORD}@", 1)
    gate = tmp_path / "gate" / "open"

    # Ctrl-C in the middle of an SGD step; a second worker finds no node with two GPUs.
    run = Run(cluster, project, url, "--workers", "2", "--gpus-per-worker", "2")
    run.wait_for(lambda: len(waiting(project)) == 1)
    run.process.send_signal(signal.SIGINT)
    time.sleep(2.0)  # for the word to get around
    gate.touch()
    status, text = run.end()
    assert status == 130, text
    assert len(waiting(project)) == 1
    assert "there is room for 1 now" in text
    assert "end their epoch" in text
    assert "working_dir_files" in text  # the folder has travelled
    population = population_of(url)
    assert all(slot.state != "claimed" and slot.n_failures == 0 for slot in population.slots())
    assert any(population.read_checkpoint(slot.key) for slot in population.slots())

    # The same command goes on; a node dies, and its worker comes to the gate again elsewhere.
    gate.unlink()
    for pid in waiting(project):
        (tmp_path / "gate" / str(pid)).unlink()
    run = Run(cluster, project, url, "--workers", "3", "--gpus-per-worker", "1")
    run.wait_for(lambda: len(waiting(project)) == 3)
    lose_a_busy_node(cluster, waiting(project))
    run.wait_for(lambda: len(waiting(project)) == 4)
    gate.touch()
    status, text = run.end()
    assert status == 0, text
    assert "cores of each: 1, GPUs: 1" in text

    study = load_study(url, "s")
    assert verify(population) + verify_trials(study, population) == []
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == POPULATION * GENERATIONS
    for generation in range(GENERATIONS):
        everyone = population.individuals(generation=generation)
        assert sum(one.reference.round == 0 for one in everyone) == POPULATION
    alone = make_database("sqlite")
    train_alone(project, alone, monkeypatch)
    assert rows(url) == rows(alone)
    session = Path(cluster.head_node.get_session_dir_path())
    logs = {log: log.read_bytes() for log in session.rglob("*") if log.is_file()}
    assert any(b"loaded from" in text for text in logs.values())
    assert not [log for log, text in logs.items() if PASSWORD.encode() in text]


def test_a_finished_study_starts_no_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/esgd.db"
    trainer, study = open_workplace(
        Workplace(trainer=f"{FILE}:trainer", storage=url, study="s", device="cpu")
    )
    assert work(trainer, study, checkpoint_seconds=300, preemption=Preemption())
    n_trials = len(study.trials)
    here = {"NodeManagerHostname": socket.gethostname(), "Resources": {"CPU": 2}, "Alive": True}
    without_actors = SimpleNamespace(
        init=lambda **_: None,
        shutdown=lambda: None,
        nodes=lambda: [here],
        exceptions=SimpleNamespace(RayError=RuntimeError),
    )
    monkeypatch.setitem(sys.modules, "ray", without_actors)
    options = ["--storage", url, "--study", "s", "--device", "cpu", "--ray"]
    assert main(["run", f"{FILE}:trainer", *options]) == 0
    said = capsys.readouterr().err
    assert "There is nothing left to train." in said
    assert "All 3 generations are done." in said
    assert len(load_study(url, "s").trials) == n_trials


def command(*options: str) -> int:
    return main(
        ["run", "train.py:trainer", "--storage", "sqlite:///x.db", "--study", "s", *options]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray"], "pip install 'optuna_esgd[ray]'"),
        (["--ray", "head:6379"], "pip install 'optuna_esgd[ray]'"),
        (["--ray", "--workers", "0"], "at least 1 worker, got 0"),
        (["--ray", "--gpus-per-worker", "1.5"], "a whole number, got 1.5"),
        (["--gpus-per-worker", "0.5"], "need --ray"),
        (["--cpus-per-worker", "2"], "need --ray"),
    ],
)
def test_wrong_use_is_told_in_words(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    assert command(*options) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_an_address_where_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()
    assert command("--ray", "127.0.0.1:1") == 2
    assert "Nobody answers at 127.0.0.1:1" in capsys.readouterr().err
