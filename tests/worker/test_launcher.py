"""Processes that die are started again, as long as there is hope."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from optuna_esgd.errors import WorkerError
from optuna_esgd.worker import launcher
from optuna_esgd.worker.launcher import WorkerProcess


def begin(code: str, said: list[str]) -> WorkerProcess:
    return WorkerProcess("worker 0", [sys.executable, "-c", code], dict(os.environ), said.append)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_is_done_is_done() -> None:
    said: list[str] = []
    worker = begin("import sys; sys.stderr.write('hello\\nyou\\n')", said)
    until(worker.is_done)
    worker.wait()
    assert said == ["worker 0: hello", "worker 0: you"]


def test_a_process_that_dies_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    mark = tmp_path / "died"
    code = f"""
import pathlib, sys
mark = pathlib.Path({str(mark)!r})
if not mark.exists():
    mark.touch()
    sys.exit(7)
"""
    worker = begin(code, said)
    until(worker.is_done)
    assert said == ["worker 0 died (status 7) and is started again."]


def test_one_that_is_told_to_end_while_it_is_started_again_ends(tmp_path: Path) -> None:
    mark = tmp_path / "died"
    code = f"""
import pathlib, sys, time
mark = pathlib.Path({str(mark)!r})
if mark.exists():
    time.sleep(600)
mark.touch()
sys.exit(7)
"""
    said: list[str] = []

    def report(text: str) -> None:
        said.append(text)
        worker.stop()  # as the handler of a signal that comes at this moment

    worker = WorkerProcess("worker 0", [sys.executable, "-c", code], dict(os.environ), report)
    try:
        until(worker.is_done)
    finally:
        worker.kill()
        worker.wait()
    assert said == ["worker 0 died (status 7) and is started again."]


def test_one_that_keeps_dying_is_given_up_with_its_last_words() -> None:
    said: list[str] = []
    worker = begin("raise SystemExit('no GPU left')", said)
    with pytest.raises(WorkerError, match=r"status 1:\s*no GPU left"):
        until(worker.is_done)
    assert said.count("worker 0: no GPU left") == 4


def test_one_that_dies_now_and_then_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "_EARLY_SECONDS", 0.0)
    said: list[str] = []
    worker = begin("raise SystemExit(1)", said)
    until(lambda: worker.is_done() or len(said) > 6)
    worker.stop()
    worker.wait()


def test_wrong_use_is_not_repeated() -> None:
    said: list[str] = []
    worker = begin("import sys; print('no such file', file=sys.stderr); sys.exit(2)", said)
    with pytest.raises(WorkerError, match="no such file"):
        until(worker.is_done)
    assert len(said) == 1


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_one_that_is_told_to_end_is_not_started_again(how: str) -> None:
    said: list[str] = []
    worker = begin("import time; time.sleep(600)", said)
    assert not worker.is_done()
    getattr(worker, how)()
    until(worker.is_done)
    assert said == []
