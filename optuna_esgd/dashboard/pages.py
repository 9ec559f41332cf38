"""Our pages: which path answers with what."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from urllib.parse import parse_qs, quote
from wsgiref.types import StartResponse, WSGIEnvironment

from optuna_esgd.dashboard.assets import KINDS, fill_page, load_asset
from optuna_esgd.dashboard.responses import Response, cached, complete, refuse
from optuna_esgd.dashboard.states import States
from optuna_esgd.dashboard.studies import Listing, Studies
from optuna_esgd.engine.individual import Reference
from optuna_esgd.errors import (
    ConfigurationError,
    CorruptionError,
    EsgdError,
    StudyError,
    WeightsNotFoundError,
)
from optuna_esgd.store.opening import open_results

# The first parts of our paths; none can be mistaken for the name of a study.
FOLDERS = ("esgd", "esgd-api", "esgd-static")
# Plotly writes style attributes, and makes pictures for download out of blobs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'"
)
_REFERENCE = re.compile(r"([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})")
_STATUS = (
    (ConfigurationError, "400 Bad Request"),
    (StudyError, "404 Not Found"),
    (WeightsNotFoundError, "404 Not Found"),
    (CorruptionError, "500 Internal Server Error"),
    (EsgdError, "503 Service Unavailable"),
)


class Pages:
    """The live pages, a list of them, and what they ask for while they are open.

    Args:
        studies: What to show.
        states: What a live page shows of one.
        is_writable: Whether optuna-dashboard beside them may change studies; told to the reader.
    """

    def __init__(self, studies: Studies, states: States, *, is_writable: bool) -> None:
        self._studies = studies
        self._states = states
        self._mode = "writable" if is_writable else "read only"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        return self._respond(environ).send(environ, start_response)

    def _respond(self, environ: WSGIEnvironment) -> Response:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return refuse("405 Method Not Allowed", "These pages can only be read.")
        try:
            path = environ["PATH_INFO"].encode("latin-1").decode("utf-8")
            folder, _, name = path.removeprefix("/").partition("/")
            if folder == "esgd-api":
                return self._api(name, environ)
            if folder == "esgd-static":
                return _asset(name, environ)
            return self._page(name)
        except UnicodeDecodeError:
            return refuse("400 Bad Request", "The address is not UTF-8.")
        except EsgdError as error:
            status = next(status for kind, status in _STATUS if isinstance(error, kind))
            return refuse(status, str(error))

    def _page(self, name: str) -> Response:
        listings = self._studies.list()
        if not name:
            return _html("index.html", rows="".join(map(_row, listings)), mode=self._mode)
        found = [one for one in listings if one.name == name]
        if not found:
            reason = f"There is no study {name!r} in this database."
            return _html("missing.html", "404 Not Found", reason=html.escape(reason))
        study_id = str(found[0].id)
        return _html("live.html", study=html.escape(name), study_id=study_id, mode=self._mode)

    def _api(self, name: str, environ: WSGIEnvironment) -> Response:
        query = parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        if name == "state":
            state = self._states.get(_only(query, "study"))
            return cached(environ, state.body, state.tag, "application/json")
        if name == "weights":
            return self._weights(_only(query, "study"), _only(query, "individual"))
        return refuse("404 Not Found", "There is no such address.")

    def _weights(self, study_name: str, individual: str) -> Response:
        """An individual's weights as a file; nothing of the request becomes a path."""
        found = _REFERENCE.fullmatch(individual)
        if found is None:
            raise ConfigurationError(
                f"individual must be generation.round.number, such as 3.0.7, got {individual!r}."
            )
        reference = Reference(*map(int, found.groups()))
        population = open_results(self._studies.load(study_name), self._studies.store)
        snapshot = population.read_weights(reference)
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", study_name)[:60]
        headers = [
            ("Content-Type", "application/octet-stream"),
            ("Content-Disposition", f'attachment; filename="{stem}-{reference}.safetensors"'),
            ("Content-Length", str(snapshot.file_bytes)),
            ("Cache-Control", "no-store"),
        ]
        return Response("200 OK", headers, snapshot.cut_file())


def _row(one: Listing) -> str:
    name = html.escape(one.name)
    trials = f'<td><a href="/dashboard/studies/{one.id}">{one.n_trials}</a></td>'
    if one.population is None:
        return f'<tr><th scope="row">{name}</th><td>none</td>{trials}</tr>\n'
    page = f"/esgd/{quote(one.name, safe='')}"
    return (
        f'<tr><th scope="row"><a href="{page}">{name}</a></th><td>trains weights</td>'
        f"{trials}</tr>\n"
    )


def _only(query: dict[str, list[str]], name: str) -> str:
    values = query.get(name, [])
    if len(values) != 1:
        raise ConfigurationError(f"The address needs {name}=... once, got {len(values)}.")
    return values[0]


def _html(name: str, status: str = "200 OK", **texts: str) -> Response:
    body = fill_page(name, **texts)
    policy = ("Content-Security-Policy", _POLICY)
    return complete(status, "text/html; charset=utf-8", body, policy)


def _asset(name: str, environ: WSGIEnvironment) -> Response:
    if name not in KINDS:
        return refuse("404 Not Found", "There is no such file.")
    asset = load_asset(name)
    return cached(environ, asset.body, asset.tag, KINDS[name])
