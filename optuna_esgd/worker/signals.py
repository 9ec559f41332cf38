"""Ctrl-C, SIGTERM and hang-ups, for as long as a block runs."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130  # the exit status of whoever was told to stop by Ctrl-C
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def stopping_on_signals(stop: Callable[[int], None]) -> Iterator[list[int]]:
    """Call ``stop`` with how many signals have come whenever one comes, instead of dying.

    Signals that were ignored before stay so: ``nohup`` wants it for hang-ups.

    Yields:
        The signals that have come, in order.
    """
    came: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        stop(len(came))

    before = {
        number: signal.signal(number, handle)
        for number in _SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
