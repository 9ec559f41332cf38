"""Workers as processes: killed, told to stop, restarted; the same bits in the end."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from optuna_esgd.engine.actions import Stop
from optuna_esgd.engine.individual import SlotKey
from optuna_esgd.worker.launcher import TRY_AGAIN
from optuna_esgd.worker.loading import Workplace, open_workplace
from tests.worker.runs import (
    FILE,
    GENERATIONS,
    POPULATION,
    find_study,
    finish,
    population_of,
    result,
    start,
    wait_until,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, ...]]:
    url = f"sqlite:///{tmp_path_factory.mktemp('one')}/esgd.db"
    text = finish(start("worker", url))
    assert "Generation 1 done" in text
    return result(url)


def test_run_is_a_worker_many_times(database_url: str, undisturbed: list[tuple[Any, ...]]) -> None:
    text = finish(start("run", database_url, "--workers", "3"))
    assert "3 workers on cpu" in text
    assert "generation 2" in text
    assert "pass" not in text
    assert result(database_url) == undisturbed
    again = finish(start("run", database_url, "--workers", "1"))
    assert "Traceback" not in again
    assert re.search(r"All 3 generations are done\.\s+The best fitness is \d", again)
    assert "on cpu" not in again  # there is nothing to start workers for
    assert result(database_url) == undisturbed


def test_a_run_with_nothing_to_train_shows_what_is_missing(
    tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    """A trial of the last generation whose worker died before it ended."""
    url = f"sqlite:///{tmp_path}/esgd.db"
    finish(start("worker", url, "--generations", "2"))
    trainer, study = open_workplace(
        Workplace(trainer=f"{FILE}:trainer", storage=url, study="shared")
    )
    loop = trainer.open(study)
    while not isinstance(action := loop.decide(), Stop):  # trains, and shows nothing
        loop.act(action)
    assert len(find_study(url).trials) == POPULATION * (GENERATIONS - 1)
    assert "on cpu" not in finish(start("run", url))
    assert result(url) == undisturbed


def test_a_worker_that_is_killed_is_started_again(
    tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    url = f"sqlite:///{tmp_path}/esgd.db"
    run = start("run", url, "--workers", "2", SLOW_SECONDS="0.2")
    wait_until(lambda: any(one.state == "claimed" for one in population_of(url).slots()))
    chronicle = population_of(url).chronicle()
    victim = next(int(one.worker.split(":")[1]) for one in chronicle.spans)
    os.kill(victim, signal.SIGKILL)
    assert "is started again" in finish(run)
    assert result(url) == undisturbed


def test_a_worker_told_to_stop_leaves_a_checkpoint(
    tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    url = f"sqlite:///{tmp_path}/esgd.db"
    key = SlotKey(0, 0, 0)
    worker = start("worker", url, "--checkpoint-every", "0.1", SLOW_SECONDS="2")
    wait_until(lambda: population_of(url).read_checkpoint(key) is not None)
    worker.send_signal(signal.SIGTERM)
    assert "Stopped. Nothing is lost" in finish(worker, 128 + signal.SIGTERM)
    slot = population_of(url).slots(generation=0)[0]
    assert (slot.state, slot.n_failures) == ("free", 0)
    assert population_of(url).read_checkpoint(key) is not None
    finish(start("run", url, "--workers", "2"))
    assert population_of(url).read_checkpoint(key) is None
    assert result(url) == undisturbed


@pytest.mark.parametrize("n_signals", [1, 2])
def test_ctrl_c_ends_a_run_and_the_same_command_goes_on(
    tmp_path: Path, n_signals: int, undisturbed: list[tuple[Any, ...]]
) -> None:
    url = f"sqlite:///{tmp_path}/esgd.db"
    run = start("run", url, "--workers", "2", SLOW_SECONDS="1.2")
    wait_until(lambda: any(one.state == "claimed" for one in population_of(url).slots()))
    for _ in range(n_signals):
        run.send_signal(signal.SIGINT)
    finish(run, 130)
    states = {one.state for one in population_of(url).slots()}
    if n_signals == 1:  # clean: nothing is claimed by the dead
        assert "claimed" not in states
    finish(start("run", url, "--workers", "2"))
    assert result(url) == undisturbed


def test_failures_of_user_code_do_not_end_a_worker(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/esgd.db"
    text = finish(start("worker", url, FAIL_IN_GENERATION="1"))
    assert "out of cheese" in text
    result(url)
    generation = population_of(url).individuals(generation=1)
    assert {one.n_epochs for one in generation if one.reference.round == 0} == {0}


@pytest.mark.parametrize("options", [("worker",), ("run", "--workers", "2")])
def test_code_that_fails_at_once_ends_a_worker_and_nothing_is_lost(
    options: tuple[str, ...], tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    command, *rest = options
    url = f"sqlite:///{tmp_path}/esgd.db"
    for _ in range(2):
        text = finish(start(command, url, *rest, FAIL_IN_GENERATION="0"), 2)
        assert "in train_epoch, raised ValueError: out of cheese" in text
        assert f"{FILE}, line " in text
        assert "Nothing is lost" in text
        assert "is started again" not in text
        slots = population_of(url).slots()
        assert {(slot.state, slot.n_failures) for slot in slots} == {("free", 0)}
    finish(start(command, url, *rest))
    assert result(url) == undisturbed


def test_wrong_use_is_said_once_and_nothing_is_started(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/esgd.db"
    finish(start("worker", url))
    text = finish(start("run", url, "--workers", "0"), 2)
    assert "at least 1 worker" in text
    assert "cuda:77" in finish(start("run", url, "--device", "cuda:77"), 2)


def test_a_worker_whose_database_does_not_answer_asks_to_be_started_again() -> None:
    text = finish(start("worker", "postgresql://user:secret@127.0.0.1:1/x"), TRY_AGAIN)
    assert text.startswith("optuna-esgd: The database postgresql://127.0.0.1:1/x failed")
    assert len(text.splitlines()) == 1
    assert "secret" not in text


def test_optimize_and_workers_share_a_study(
    tmp_path: Path, undisturbed: list[tuple[Any, ...]]
) -> None:
    from tests.worker import training

    url = f"sqlite:///{tmp_path}/esgd.db"
    worker = start("worker", url, SLOW_SECONDS="0.2")
    wait_until(lambda: len(population_of(url).slots()) > 0)
    study = find_study(url)
    study.sampler = training.sampler
    study.optimize(training.make_trainer(), n_trials=4)
    finish(worker)
    assert [trial.state for trial in study.trials].count(TrialState.COMPLETE) == 12
    assert result(url) == undisturbed
