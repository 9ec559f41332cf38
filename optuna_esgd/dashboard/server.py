"""The process that serves: threads, an address, the end."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Iterable

from optuna_esgd.dashboard.application import make_application
from optuna_esgd.dashboard.guard import choose_policy
from optuna_esgd.errors import ConfigurationError

_VARIABLE = "OPTUNA_ESGD_TOKEN"
_THREADS = 8
_MOST_BODY_BYTES = 2**27  # as much as optuna-dashboard takes


def _print(text: str) -> None:
    print(text, flush=True)  # also where nobody sees it before a buffer is full


def serve(
    url: str,
    *,
    store: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    is_writable: bool = False,
    asks_token: bool = False,
    allowed_hosts: Iterable[str] = (),
    announce: Callable[[str], None] = _print,
) -> None:
    """Serve optuna-dashboard and the live page until interrupted (Ctrl-C).

    Args:
        url: Database of the studies.
        store: Database of the weights; None if it is the same.
        host: Name or address to bind to.
        port: 0 to 65535; 0 takes a free one.
        is_writable: Whether optuna-dashboard may change studies.
        asks_token: Whether visitors need a token: the one in the environment variable
            ``OPTUNA_ESGD_TOKEN``, or a new one. Command lines can be read by others.
        allowed_hosts: More names under which the server is reached.
        announce: Is told where the pages are, once the server listens.

    Raises:
        MissingExtraError: optuna-dashboard or waitress is not installed.
        ConfigurationError: The address cannot be bound to, or is open to others without a token.
        StorageError: The database cannot be reached, or is of another version.
    """
    token = (os.environ.get(_VARIABLE) or secrets.token_urlsafe()) if asks_token else None
    policy = choose_policy(host, allowed_hosts=allowed_hosts, token=token, is_writable=is_writable)
    application = make_application(url, store=store, policy=policy)
    import waitress  # noqa: PLC0415  (optional)

    with listen(host, port) as listening:
        # Made to face slow and broken clients; each request has a thread.
        server = waitress.create_server(
            application,
            sockets=[listening],
            threads=_THREADS,
            max_request_body_size=_MOST_BODY_BYTES,
            ident=None,
        )
        port = listening.getsockname()[1]
        announce(describe_places(host, port, token, is_writable=is_writable))
        try:
            server.run()
        finally:
            server.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address.

    Raises:
        ConfigurationError: It cannot be bound to.
    """
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"port must be 0 to 65535, got {port}.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on port {port} of {host}: {error}. Choose another one with --port or "
            "--host."
        ) from None


def describe_places(host: str, port: int, token: str | None, *, is_writable: bool) -> str:
    """What to open in a browser."""
    name = f"[{host}]" if ":" in host else host
    root = f"http://{name}:{port}/"
    query = "" if token is None else f"?token={token}"
    mode = "Studies can be changed." if is_writable else "Read only; --write changes that."
    return (
        f"Live page         {root}esgd/{query}\n"
        f"optuna-dashboard  {root}{query}\n"
        f"{mode} Ctrl-C ends it."
    )
