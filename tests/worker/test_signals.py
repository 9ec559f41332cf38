"""Signals that come while a block runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from optuna_esgd.worker.signals import stopping_on_signals


@pytest.fixture(params=["SIGTERM", "SIGINT", "SIGHUP"])
def number(request: pytest.FixtureRequest) -> Iterator[int]:
    """A signal; who handles it is the same again after the test."""
    number: int = getattr(signal, request.param)
    before = signal.getsignal(number)
    yield number
    signal.signal(number, before)


def test_a_signal_is_told_of_and_remembered(number: int) -> None:
    said: list[str] = []
    signal.signal(number, lambda *_: said.append("before"))
    with stopping_on_signals(lambda n_signals: said.append(f"signal {n_signals}")) as came:
        signal.raise_signal(number)
        signal.raise_signal(number)
    assert came == [number, number]
    signal.raise_signal(number)
    assert said == ["signal 1", "signal 2", "before"]


def test_what_was_ignored_stays_ignored(number: int) -> None:
    """As ``nohup`` wants it for hang-ups, and shells for Ctrl-C and what runs behind."""
    signal.signal(number, signal.SIG_IGN)
    with stopping_on_signals(lambda _n_signals: None) as came:
        signal.raise_signal(number)
    assert came == []
    assert signal.getsignal(number) is signal.SIG_IGN
