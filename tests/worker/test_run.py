"""Signals that come to a run while it starts its workers."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from optuna_esgd.worker import run as running
from optuna_esgd.worker.launcher import WorkerProcess
from optuna_esgd.worker.loading import Workplace
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
