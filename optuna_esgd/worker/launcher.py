"""Several worker processes on this machine: started, started again, and stopped together."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from optuna_esgd.errors import WorkerError

WRONG_USE = 2  # what a worker exits with where starting it again would not help
TRY_AGAIN = 75  # ... and where later it may: EX_TEMPFAIL of sysexits.h
_MOST_EARLY_DEATHS = 3
_EARLY_SECONDS = 30.0
_LAST_LINES = 30


class WorkerProcess:
    """One worker: a process, and another one whenever it dies.

    Args:
        name: For messages.
        command: Starts it.
        environment: Of the process.
        report: Called with every line it writes to stderr, from a thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        report: Callable[[str], None],
    ) -> None:
        self.name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._report = report
        self._last_lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._n_early_deaths = 0
        self._is_stopped = False
        self._start()

    def is_done(self) -> bool:
        """Whether it has ended for good; one that died is started again.

        Raises:
            WorkerError: It will not work, however often it is started.
        """
        status = self._process.poll()
        if status is None:
            return False
        if status == 0 or self._is_stopped:
            return True
        self._reader.join()
        is_early = time.monotonic() - self._started_at < _EARLY_SECONDS
        self._n_early_deaths = self._n_early_deaths + 1 if is_early else 0
        if status == WRONG_USE or self._n_early_deaths > _MOST_EARLY_DEATHS:
            words = "\n".join(self._last_lines)
            raise WorkerError(f"{self.name} ended with status {status}:\n{words}")
        self._report(f"{self.name} died (status {status}) and is started again.")
        self._start()
        if self._is_stopped:  # by a signal in the lines above: it reached the dead one only
            self._process.terminate()
        return False

    def stop(self) -> None:
        """Ask it to save its work and end."""
        self._is_stopped = True
        self._process.terminate()

    def kill(self) -> None:
        """End it at once; the others take over what it was doing when its lease runs out."""
        self._is_stopped = True
        self._process.kill()

    def wait(self) -> None:
        """Wait until its process has ended."""
        self._process.wait()
        self._reader.join()

    def _start(self) -> None:
        self._started_at = time.monotonic()
        # A session of its own: Ctrl-C is for the launcher, which tells its workers in turn.
        self._process = subprocess.Popen(  # noqa: S603 - the command line is our own
            self._command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None  # noqa: S101 - a pipe, see _start
        with process.stderr as lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip()
                self._last_lines.append(text)
                self._report(f"{self.name}: {text}")
