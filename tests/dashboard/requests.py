"""Asks WSGI applications directly, and checks that they keep to the standard."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment
from wsgiref.validate import validator


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        """The value of a header that is there at most once; "" if it is not."""
        found = self.all(name)
        assert len(found) <= 1
        return found[0] if found else ""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        reason: str = self.json()["reason"]
        return reason


def environ(method: str, address: str, headers: dict[str, str], body: bytes) -> WSGIEnvironment:
    path, _, query = address.partition("?")
    made: WSGIEnvironment = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_LENGTH": str(len(body)),
        "CONTENT_TYPE": "application/json",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    usual = {"Host": "localhost:8080", "Accept-Encoding": "identity"}
    for name, value in {**usual, **headers}.items():
        made["HTTP_" + name.upper().replace("-", "_")] = value
    return made


def ask(
    application: WSGIApplication,
    address: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: Any = None,
    validates: bool = True,
) -> Answer:
    """One request and its answer; ``body`` is sent as JSON."""
    told: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_exception: Any) -> Any:
        told.append((status, headers))
        return lambda _part: None

    sent = b"" if body is None else json.dumps(body).encode()
    asked = validator(application) if validates else application
    parts = asked(environ(method, address, headers or {}, sent), start_response)
    received = b"".join(parts)
    close = getattr(parts, "close", None)
    if close is not None:
        close()
    ((status, answered),) = told
    return Answer(int(status.split()[0]), answered, received)


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Stands behind a guard: says what it was asked."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["REQUEST_METHOD"].encode()]
