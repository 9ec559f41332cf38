"""Merging SQLite's write-ahead log into its file beside the work, not within a commit."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from pathlib import Path

_logger = logging.getLogger(__name__)

# How long the log may get before it is merged; SQLite's own default with pages of 64 kB.
LOG_BYTES = 2**26
# From here on commits merge it themselves: the thread is not fast enough, or readers hold it up.
MOST_LOG_BYTES = 4 * LOG_BYTES
# What is committed while the log is being merged is merged in another pass.
_MOST_PASSES = 4


class LogMerger:
    """Merges the log of one file in a thread when it has got long.

    Nothing depends on it: what is committed is in the log, whoever opens the file next reads it,
    and the last one to close the file merges it.

    Args:
        path: The database file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = Path(f"{path}-wal")
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Start merging if it is time and nobody does; returns at once."""
        try:
            if self._log.stat().st_size <= LOG_BYTES:  # to which SQLite shortens a merged one
                return
        except OSError:
            return  # no log: another journal, or merged and gone
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._merge, daemon=True)
                self._thread.start()

    def wait(self) -> None:
        """Return when nothing is being merged."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _merge(self) -> None:
        try:
            # Never makes a file where one has been deleted meanwhile.
            place = f"{self._path.as_uri()}?mode=rw"
            with contextlib.closing(sqlite3.connect(place, timeout=0, uri=True)) as file:
                file.execute("PRAGMA synchronous = NORMAL").close()
                # Waits for nobody: what a reader still needs of the log stays in it.
                for _ in range(_MOST_PASSES):
                    merge = file.execute("PRAGMA wal_checkpoint(PASSIVE)")
                    [(_, n_pages, n_merged)] = merge.fetchall()
                    if n_merged == n_pages:
                        break
                # Now that there is next to nothing left, keep writers out while it is merged:
                # else there would always be something, and the log would never begin anew.
                file.execute("PRAGMA wal_checkpoint(RESTART)").close()
        except sqlite3.Error as error:
            # A full disk, say: commits will say so themselves, or a later merge succeeds.
            _logger.debug("The log of %s was not merged: %s", self._path, error)
