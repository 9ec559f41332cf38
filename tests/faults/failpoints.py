"""Where a process can die: before any of its SQL statements and commits, Optuna's and ours.

Between two of them nothing reaches the database, so to die before the next one is to die after the
last one, too.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import sqlalchemy as sa

Points = Literal["commits", "all"]


class Counter:
    """Counts statements and commits of all engines of this process.

    Args:
        points: Where the process can die.
        deadly: Before how many such points it lives, from 0; None for ever.
    """

    def __init__(self, points: Points = "all", deadly: int | None = None) -> None:
        self._points = points
        self._deadly = deadly
        self.n_statements = 0
        self.n_commits = 0

    @property
    def n_points(self) -> int:
        """How many points there were."""
        return self.n_commits + (self.n_statements if self._points == "all" else 0)

    def count_statement(self, *_arguments: Any, **_options: Any) -> None:
        if self._points == "all":
            self._die_if_it_is_time()
        self.n_statements += 1

    def count_commit(self, _connection: sa.Connection) -> None:
        self._die_if_it_is_time()
        self.n_commits += 1

    def _die_if_it_is_time(self) -> None:
        if self.n_points == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def counting(points: Points = "all", *, deadly: int | None = None) -> Iterator[Counter]:
    """Count in a block; where a number is given, kill the process at this point."""
    counter = Counter(points, deadly)
    sa.event.listen(sa.Engine, "before_cursor_execute", counter.count_statement)
    sa.event.listen(sa.Engine, "commit", counter.count_commit)
    try:
        yield counter
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", counter.count_statement)
        sa.event.remove(sa.Engine, "commit", counter.count_commit)
