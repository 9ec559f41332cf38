"""Optuna's storages: which database one lives in, and how to make a good one."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
import time
import uuid as uuids
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import optuna
import sqlalchemy as sa

from optuna_esgd.errors import StorageError, StudyError
from optuna_esgd.store import schema
from optuna_esgd.store.engines import (
    Database,
    describe,
    is_in_memory,
    limit_idle_transactions,
    open_database,
    parse_url,
    sqlite_path,
)
from optuna_esgd.store.transactions import advise, kind_of, read, redact

_logger = logging.getLogger(__name__)

_SQLITE_TIMEOUT_SECONDS = 60
_PATIENCE_SECONDS = 60.0
_N_NAMES = 10  # of studies that an error lists

_names_in_memory: WeakKeyDictionary[optuna.storages.BaseStorage, str] = WeakKeyDictionary()
_names_lock = threading.Lock()


def create_storage(url: str) -> optuna.storages.RDBStorage:
    """An Optuna storage whose database also holds weights well.

    A new SQLite file gets pages of 64 kB and a write-ahead log (measured: 1.5 to 2 times faster
    with weights than a file Optuna makes), waits a minute for a lock, and commits without waiting
    for the disk (a power cut may take the last trials, never the file). On servers the driver is
    chosen from those installed.

    Args:
        url: ``sqlite:///file.db``, ``postgresql://...`` or ``mysql://...``.

    Raises:
        UnavailableError: The database cannot be reached.
        StorageError: The URL is of another kind, or the database refuses.
    """
    parsed = parse_url(url)
    options: dict[str, Any] = {"pool_pre_ping": True}
    if parsed.get_backend_name() == "sqlite":
        options = {"connect_args": {"timeout": _SQLITE_TIMEOUT_SECONDS}}
    # Optuna fills in {SCHEMA_VERSION}; other braces are the user's.
    text = parsed.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    with optunas_errors_in_words(parsed), _taking_turns(parsed):
        storage = optuna.storages.RDBStorage(text, engine_kwargs=options)
        _complete_indexes(storage.engine)
    if parsed.get_backend_name() != "sqlite":
        limit_idle_transactions(storage.engine)
        storage.engine.dispose()  # connections made before
    elif not is_in_memory(parsed):
        _commit_without_waiting(storage.engine)
    return storage


@contextlib.contextmanager
def optunas_errors_in_words(url: str | sa.URL) -> Iterator[None]:
    """Translate what Optuna, for as long as a block runs, raises of its tables in a database.

    Raises:
        UnavailableError: The database cannot be reached.
        StorageError: It refuses, or is full or read-only.
    """
    parsed = parse_url(url)
    try:
        yield
    except (sa.exc.SQLAlchemyError, ImportError, optuna.exceptions.StorageInternalError) as error:
        cause = error.__cause__ or error  # Optuna's own is a guess
        reason = redact(" ".join(str(getattr(cause, "orig", cause)).split()), parsed)
        kind = StorageError if is_in_memory(parsed) else kind_of(cause, open_database(parsed))
        raise kind(
            f"Optuna cannot use its tables in {describe(parsed)}: {reason}."
            f"{advise(cause, was_reached=False)}"
        ) from None


def _complete_indexes(engine: sa.Engine) -> None:
    """Make the indexes that Optuna did not come to.

    SQLite and MariaDB commit each statement that makes something. Who dies between a table and its
    indexes leaves it without them for good, since Optuna asks for tables only; and without the
    index that keeps names unique, there would be two studies of one name. An Optuna whose tables
    are defined elsewhere is left to itself.
    """
    try:
        from optuna.storages._rdb import models  # noqa: PLC0415
    except ImportError:
        return
    for table in models.BaseModel.metadata.sorted_tables:
        for index in table.indexes:
            try:
                index.create(engine, checkfirst=True)
            except sa.exc.SQLAlchemyError as error:
                if not sa.inspect(engine).has_index(table.name, str(index.name)):
                    _logger.warning(
                        "Optuna's table %s has no index %s: a process died before it made it, and "
                        "now it cannot be made (%s). Of two studies of one name, rename one.",
                        table.name,
                        index.name,
                        getattr(error, "orig", error),
                    )


def open_storage(url: str) -> optuna.storages.RDBStorage:
    """The storage of studies that exist already; a mistyped path makes no new file.

    Raises:
        StorageError: As ``create_storage``; or there is no such SQLite file.
    """
    check_exists(url)
    return create_storage(url)


def load_study(url: str, name: str) -> optuna.Study:
    """A study that is there.

    Raises:
        StudyError: There is none of this name.
        StorageError: There is no such database.
    """
    storage = open_storage(url)
    try:
        with optunas_errors_in_words(url):
            return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        names = sorted(map(repr, optuna.get_all_study_names(storage)))
        others = f"{', '.join(names[:_N_NAMES])}{', ...' if len(names) > _N_NAMES else ''}"
        raise StudyError(
            f"There is no study {name!r} in this database; it has {others or 'none at all'}."
        ) from None


def check_exists(url: str) -> None:
    """Refuse the URL of an SQLite file that is not there.

    Raises:
        StorageError: There is no such file, or the URL is of an unknown kind.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite" and not is_in_memory(parsed):
        path = sqlite_path(parsed)
        if not path.exists():
            raise StorageError(f"There is no file {path}. Check the path in the URL.")


def _commit_without_waiting(engine: sa.Engine) -> None:
    """Let Optuna's many small commits reach the disk with the next checkpoint.

    With a write-ahead log, what a power cut takes away is the last commits, never the file's
    consistency. Our own connections do the same.
    """

    def set_pragma(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous = NORMAL").close()

    sa.event.listen(engine, "connect", set_pragma)
    engine.dispose()  # connections made before


def unwrap(storage: optuna.storages.BaseStorage) -> optuna.storages.BaseStorage:
    """The storage behind Optuna's cache, which is made anew for every study."""
    backend = getattr(storage, "_backend", None)
    return backend if isinstance(backend, optuna.storages.RDBStorage) else storage


def find_database(storage: optuna.storages.BaseStorage) -> Database | None:
    """The database a storage lives in; None for studies in memory.

    Raises:
        StudyError: The storage has no database that can hold weights.
        StorageError: The database cannot be reached.
    """
    backend = unwrap(storage)
    if isinstance(backend, optuna.storages.InMemoryStorage):
        return None
    if not isinstance(backend, optuna.storages.RDBStorage):
        raise StudyError(
            f"{type(storage).__name__} has no database for weights. Name one beside it: "
            "store='sqlite:///weights.db', or a postgresql:// or mysql:// URL."
        )
    url = backend.engine.url
    if url.get_backend_name() not in ("sqlite", "postgresql", "mysql", "mariadb"):
        raise StudyError(
            f"Weights cannot be kept in {describe(url)}. Name another database: "
            "store='sqlite:///weights.db', or a postgresql:// or mysql:// URL."
        )
    if url.get_backend_name() == "sqlite":
        file = _file_of(backend)
        return None if file is None else open_database(sa.URL.create("sqlite", database=file))
    # The storage's own driver: its arguments are not another one's.
    url = url.set(drivername=f"{url.get_backend_name()}+{backend.engine.driver}")
    return open_database(url, connect_args=backend.engine_kwargs.get("connect_args", {}))


def is_own_database(storage: optuna.storages.BaseStorage, database: Database) -> bool:
    """Whether a database is the very one the storage lives in."""
    try:
        own = find_database(storage)
    except StudyError:
        return False
    return own is not None and str(own) == str(database)


def name_home(storage: optuna.storages.BaseStorage) -> str:
    """A name for the place a study lives in, when its weights live elsewhere.

    Two workers that reach one storage by the same address give it the same name, so that both
    find one population however they race. It shows no password.
    """
    backend = unwrap(storage)
    if isinstance(backend, optuna.storages.RDBStorage):
        url = backend.engine.url
        place = describe(url)
        if url.get_backend_name() == "sqlite":
            file = _file_of(backend)
            if file is None:
                return _name_in_memory(backend)
            place = f"sqlite://{Path(file).resolve()}"
    elif isinstance(backend, optuna.storages.GrpcStorageProxy):
        place = f"grpc://{getattr(backend, '_host', '')}:{getattr(backend, '_port', '')}"
    elif isinstance(backend, optuna.storages.InMemoryStorage):
        return _name_in_memory(backend)
    else:
        log: Any = getattr(backend, "_backend", backend)
        file = getattr(log, "_file_path", None)
        address = Path(file).resolve() if file else getattr(log, "_url", None)
        place = f"{type(log).__name__}://{address}"
    return hashlib.sha256(place.encode()).hexdigest()[:32]


def _file_of(backend: optuna.storages.RDBStorage) -> str | None:
    """The SQLite file as the storage itself sees it, wherever the process has gone since."""
    with backend.engine.connect() as connection:
        rows = connection.exec_driver_sql("PRAGMA database_list").all()
    return next((row[2] for row in rows if row[1] == "main"), None) or None


def _name_in_memory(backend: optuna.storages.BaseStorage) -> str:
    with _names_lock:
        return _names_in_memory.setdefault(backend, f"memory-{uuids.uuid4().hex}")


@contextlib.contextmanager
def _taking_turns(url: sa.URL) -> Iterator[None]:
    """Let one process at a time make Optuna's tables; Optuna itself does not.

    Of two that do, one may fail, or both write down the version, and then nobody can open them.
    """
    if is_in_memory(url):
        yield
        return
    database = open_database(url)
    if read(database, _has_tables):
        yield
    elif database.kind == "sqlite":
        with _locking_folder(sqlite_path(url).parent):
            yield
    else:
        with schema.taking_turns(database):
            yield


def _has_tables(connection: sa.Connection) -> bool:
    if not sa.inspect(connection).has_table("alembic_version"):
        return False
    versions = sa.table("alembic_version", sa.column("version_num"))
    return connection.execute(sa.select(versions)).first() is not None


@contextlib.contextmanager
def _locking_folder(folder: Path) -> Iterator[None]:
    """Lock a folder: no file is left behind, and SQLite's own locks on its file stay as they are.

    Where there are no such locks (Windows, some network file systems) nobody waits. Who holds it
    may be a process that was stopped: so nobody waits for ever.

    Raises:
        StorageError: Another process has had it for a minute.
    """
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        started = time.monotonic()
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() - started > _PATIENCE_SECONDS:
                    raise StorageError(
                        f"Another process has been making tables in {folder} for a minute. If it "
                        "was stopped, let it go on, or end it."
                    ) from None
                time.sleep(0.02)
            except OSError:
                break
            else:
                break
        yield
    finally:
        os.close(descriptor)
