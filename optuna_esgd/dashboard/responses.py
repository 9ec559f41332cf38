"""Answers to requests."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from typing import NamedTuple
from wsgiref.types import StartResponse, WSGIEnvironment


class Response(NamedTuple):
    """One answer; the body may be made piece by piece."""

    status: str
    headers: list[tuple[str, str]]
    body: Iterable[bytes]

    def send(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request; HEAD without the body."""
        start_response(self.status, self.headers)
        return [b""] if environ["REQUEST_METHOD"] == "HEAD" else self.body


def complete(status: str, kind: str, body: bytes, *headers: tuple[str, str]) -> Response:
    """A short answer that is made for this request only."""
    usual = [
        ("Content-Type", kind),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    return Response(status, [*usual, *headers], [body])


def refuse(status: str, reason: str, *headers: tuple[str, str]) -> Response:
    """An error in the form of optuna-dashboard's own, which its pages show in words."""
    body = json.dumps({"reason": reason}).encode()
    return complete(status, "application/json", body, *headers)


def cached(environ: WSGIEnvironment, compressed: bytes, tag: str, kind: str) -> Response:
    """Something that browsers keep: 304 if the reader's is this one.

    Args:
        environ: The request.
        compressed: By gzip.
        tag: Changes with the content.
        kind: Content type.
    """
    headers = [("ETag", f'"{tag}"'), ("Cache-Control", "no-cache"), ("Vary", "Accept-Encoding")]
    known = environ.get("HTTP_IF_NONE_MATCH", "").split(",")
    if tag in {one.strip().removeprefix("W/").strip('"') for one in known}:
        return Response("304 Not Modified", headers, [b""])
    body = compressed
    if "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""):
        headers.append(("Content-Encoding", "gzip"))
    else:
        body = gzip.decompress(compressed)
    headers += [("Content-Type", kind), ("Content-Length", str(len(body)))]
    return Response("200 OK", headers, [body])
