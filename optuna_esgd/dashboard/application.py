"""Everything under one address: our pages in their places, optuna-dashboard everywhere else."""

from __future__ import annotations

import importlib
import importlib.util
import threading
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import optuna

from optuna_esgd.dashboard.guard import Guard, Policy
from optuna_esgd.dashboard.pages import FOLDERS, Pages
from optuna_esgd.dashboard.responses import refuse
from optuna_esgd.dashboard.states import States
from optuna_esgd.dashboard.studies import Studies
from optuna_esgd.errors import EsgdError, MissingExtraError
from optuna_esgd.store import schema
from optuna_esgd.store.artifacts import SqlArtifactStore
from optuna_esgd.store.engines import open_database


def make_application(url: str, *, store: str | None = None, policy: Policy) -> WSGIApplication:
    """A WSGI application for the studies of a database, guarded.

    Args:
        url: Database of the studies.
        store: Database of the weights; None if it is the same.
        policy: Who may ask for what.

    Raises:
        MissingExtraError: optuna-dashboard is not installed.
        StorageError: The database cannot be reached, or is of another version.
    """
    check_extra()
    # Plotly looks at whatever another thread has imported of it by then: here there are no others.
    if importlib.util.find_spec("pandas") is not None:
        importlib.import_module("pandas")
    studies = Studies(url, store)
    pages = Pages(studies, States(studies), is_writable=policy.is_writable)
    return Guard(Dispatcher(pages, OptunaDashboard(studies, store or url)), policy)


def check_extra() -> None:
    """Refuse to go on without what the extra ``dashboard`` installs.

    Raises:
        MissingExtraError: Says what to install.
    """
    for module in ("optuna_dashboard", "waitress"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError(
                f"The dashboard needs {module.replace('_', '-')}, which is not installed: "
                "pip install 'optuna_esgd[dashboard]'."
            )


class Dispatcher:
    """Chooses by the first part of the path. optuna-dashboard's own paths begin at the root."""

    def __init__(self, pages: WSGIApplication, others: WSGIApplication) -> None:
        self._pages = pages
        self._others = others

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        first = environ["PATH_INFO"].removeprefix("/").partition("/")[0]
        application = self._pages if first in FOLDERS else self._others
        return application(environ, start_response)


class OptunaDashboard:
    """optuna-dashboard as it is, over a cached storage.

    Without a cache it reads every trial again at every poll. But what is cached, by Optuna and by
    optuna-dashboard itself, is kept by study ids, and SQLite gives the id of a deleted study to
    the next one: so both begin anew when a study that was there is gone.

    Args:
        studies: What to show.
        artifacts_url: Database that may hold artifacts, e.g. published weights.
    """

    def __init__(self, studies: Studies, artifacts_url: str) -> None:
        self._studies = studies
        self._artifacts_url = artifacts_url
        self._lock = threading.Lock()
        self._storage: optuna.storages.RDBStorage | None = None
        self._known: set[tuple[int, str, str | None]] = set()
        self._application: WSGIApplication | None = None
        self._artifacts: SqlArtifactStore | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        try:
            application = self._current()
        except EsgdError as error:
            return refuse("503 Service Unavailable", str(error)).send(environ, start_response)
        return application(environ, start_response)

    def _current(self) -> WSGIApplication:
        with self._lock:
            storage = self._studies.storage()
            found = {(one.id, one.name, one.population) for one in self._studies.list()}
            is_other = storage is not self._storage or not self._is_growth(found)
            artifacts = self._find_artifacts() if self._artifacts is None else self._artifacts
            if self._application is None or is_other or artifacts is not self._artifacts:
                self._application = self._make(storage, artifacts)
            self._storage, self._known, self._artifacts = storage, found, artifacts
            return self._application

    def _is_growth(self, found: set[tuple[int, str, str | None]]) -> bool:
        """Whether all studies that were known are still there; they may get a population."""
        return all(
            one in found or (one[2] is None and one[:2] in {other[:2] for other in found})
            for one in self._known
        )

    def _find_artifacts(self) -> SqlArtifactStore | None:
        """The artifact store, once there are tables for one."""
        database = open_database(self._artifacts_url, create=False)
        if schema.read_version(database) != schema.HEAD:
            return None
        return SqlArtifactStore(self._artifacts_url)

    @staticmethod
    def _make(
        storage: optuna.storages.RDBStorage, artifacts: SqlArtifactStore | None
    ) -> WSGIApplication:
        import optuna_dashboard  # noqa: PLC0415  (optional)

        application: WSGIApplication = optuna_dashboard.wsgi(
            optuna.storages.get_storage(storage), artifact_store=artifacts
        )
        return application
