"""Signals that come to a run while it starts its workers."""

from __future__ import annotations

import io
import os
import signal
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from optuna_esgd.errors import UnavailableError
from optuna_esgd.worker import progress
from optuna_esgd.worker import run as running
from optuna_esgd.worker.launcher import WorkerProcess
from optuna_esgd.worker.loading import Workplace, open_workplace
from optuna_esgd.worker.progress import PopulationProgress
from optuna_esgd.worker.run import run
from optuna_esgd.worker.signals import INTERRUPTED
from tests.worker.runs import FILE


@pytest.mark.parametrize("n_before", [0, 1])
def test_a_signal_that_comes_while_a_worker_is_started_stops_all(
    n_before: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[WorkerProcess] = []

    class Interrupted(WorkerProcess):
        def __init__(self, name: str, command: Any, environment: Any, report: Any) -> None:
            if len(started) == n_before:
                signal.raise_signal(signal.SIGTERM)
            sleep = [sys.executable, "-c", "import time; time.sleep(20)"]
            super().__init__(name, sleep, dict(os.environ), report)
            started.append(self)

    monkeypatch.setattr(running, "WorkerProcess", Interrupted)
    workplace = Workplace(
        trainer=f"{FILE}:trainer", storage=f"sqlite:///{tmp_path}/esgd.db", study="stopped"
    )
    assert run(workplace, n_workers=3, checkpoint_seconds=300) == INTERRUPTED
    assert [one._process.returncode for one in started] == [-signal.SIGTERM] * (n_before + 1)


def test_nobody_is_started_again_while_the_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would die of it, and the run with it."""
    workplace = Workplace(
        trainer=f"{FILE}:trainer", storage=f"sqlite:///{tmp_path}/esgd.db", study="away"
    )
    trainer, study = open_workplace(workplace)
    loop = trainer.open(study)
    answers: list[Any] = [UnavailableError("The server is gone."), loop.population.facts()]
    asked: list[int] = []

    class Dying:
        def is_done(self) -> bool:
            asked.append(len(answers))
            return not answers

    def facts() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    monkeypatch.setattr(loop.population, "facts", facts)
    monkeypatch.setattr(progress, "_READ_SECONDS", 0.0)
    said = io.StringIO()
    console = Console(file=said, log_path=False)
    shown = PopulationProgress(loop, console)
    running._watch(cast("list[WorkerProcess]", [Dying()]), [], shown, console)
    assert asked == [2, 0]
    assert "The server is gone. Waiting for it." in said.getvalue()
