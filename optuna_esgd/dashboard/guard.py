"""Who may ask for what: a WSGI middleware in front of everything that is served.

optuna-dashboard alone answers whoever reaches it. On a loopback address that is every web page
open in a browser on the same machine: by requests across sites, or by a name of its own that
suddenly points to 127.0.0.1 (DNS rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from optuna_esgd.dashboard.responses import Response, refuse
from optuna_esgd.errors import ConfigurationError

if TYPE_CHECKING:
    from _typeshed import OptExcInfo

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_READS = frozenset({"GET", "HEAD"})
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,}")

_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
)
_CONTENT_POLICY = "Content-Security-Policy"
# Headers of this name add up: what a page says of itself stays, and this comes on top.
_EVERYWHERE = "frame-ancestors 'self'; object-src 'none'; base-uri 'none'; form-action 'self'"
# For what says nothing of itself: a file that somebody uploaded must not run.
_UNTOLD = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; sandbox"

_Headers = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is let through.

    Attributes:
        hosts: Names, in lower case, that the Host header may have.
        allows_addresses: Whether it may be any IP address; a name that an attacker points here
            is none.
        token: What a visitor has to show; None for nothing.
        is_writable: Whether more than reading is let through.
    """

    hosts: frozenset[str] = LOOPBACK
    allows_addresses: bool = False
    token: str | None = None
    is_writable: bool = False


def choose_policy(
    host: str, *, allowed_hosts: Iterable[str] = (), token: str | None, is_writable: bool
) -> Policy:
    """The policy for a server bound to an address.

    Args:
        host: Name or address to bind to.
        allowed_hosts: More names under which the server is reached.
        token: What a visitor has to show: 16 or more of A-Z a-z 0-9 _ -; None for nothing.
        is_writable: Whether optuna-dashboard may change studies.

    Raises:
        ConfigurationError: The address is beyond loopback and there is no token, or the token is
            short or of other characters.
    """
    if token is not None and not _TOKEN.fullmatch(token):
        n_others = sum(_TOKEN.fullmatch(character * 16) is None for character in token)
        raise ConfigurationError(
            "The token must have 16 or more characters, out of A-Z, a-z, 0-9, _ and -; got "
            f"{len(token)}, {n_others} of them others."
        )
    is_local = is_loopback(host)
    if not is_local and token is None:
        raise ConfigurationError(
            f"{host or 'An empty host'} is an address that other machines reach, and whoever "
            "reaches it sees everything. Ask visitors for a token (--token), or bind to "
            "127.0.0.1."
        )
    names = {*LOOPBACK, *(name.lower() for name in allowed_hosts)}
    if not is_local:
        names |= {host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
    return Policy(
        hosts=frozenset(names), allows_addresses=not is_local, token=token, is_writable=is_writable
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address; names other than localhost count as open."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Lets through what a policy allows, and adds the headers that tell browsers to be careful.

    Args:
        application: What stands behind.
        policy: What is let through.
    """

    def __init__(self, application: WSGIApplication, policy: Policy) -> None:
        self._application = application
        self._policy = policy

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        careful = _add_headers(start_response)
        refusal = self._refuse(environ)
        if refusal is not None:
            return refusal.send(environ, careful)
        token = self._policy.token
        if token is not None and _token_in_query(environ) is not None:
            return _remember(environ, token).send(environ, careful)
        return self._application(environ, careful)

    def _refuse(self, environ: WSGIEnvironment) -> Response | None:
        policy = self._policy
        if not _is_known_host(environ.get("HTTP_HOST", ""), policy):
            return refuse(
                "421 Misdirected Request",
                "This server does not go by that name. Start it with --allow-host NAME if it is "
                "reached under another one.",
            )
        if _is_cross_site(environ):
            return refuse("403 Forbidden", "Another site may not ask this one.")
        if policy.token is not None and not _shows_token(environ, policy.token):
            return refuse(
                "401 Unauthorized",
                "Open the address that optuna-esgd printed, or send the token: "
                "'Authorization: Bearer TOKEN'.",
                ("WWW-Authenticate", "Bearer"),
            )
        method = environ["REQUEST_METHOD"]
        if method in _READS or (method in _WRITES and policy.is_writable):
            return None
        if method in _WRITES:
            return refuse("403 Forbidden", "Read only: start optuna-esgd dashboard with --write.")
        return refuse("405 Method Not Allowed", "This server knows no such method.")


def _is_known_host(header: str, policy: Policy) -> bool:
    found = _HOST.fullmatch(header)
    if found is None:
        return False
    name = (found[1] or found[2]).lower()
    if name in policy.hosts:
        return True
    if not policy.allows_addresses:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_cross_site(environ: WSGIEnvironment) -> bool:
    """Whether a browser says that another site asks; a link from there may open a page."""
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and not _is_own_origin(origin, environ["HTTP_HOST"]):
        return True
    if environ.get("HTTP_SEC_FETCH_SITE", "none") in ("same-origin", "none"):
        return False
    is_link = (
        environ["REQUEST_METHOD"] in _READS
        and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST") == "document"
    )
    return not is_link


def _is_own_origin(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False


def _shows_token(environ: WSGIEnvironment, token: str) -> bool:
    scheme, _, bearer = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    given = [bearer.strip()] if scheme.lower() == "bearer" else []
    given += [_token_in_query(environ), _token_in_cookie(environ)]
    # All are compared, each in constant time: how long it takes tells nothing.
    matches = [
        hmac.compare_digest(one.encode("utf-8", "replace"), token.encode())
        for one in given
        if one is not None
    ]
    return any(matches)


def _token_in_query(environ: WSGIEnvironment) -> str | None:
    if environ["REQUEST_METHOD"] not in _READS:
        return None
    return dict(parse_qsl(environ.get("QUERY_STRING", ""))).get("token")


def _token_in_cookie(environ: WSGIEnvironment) -> str | None:
    try:
        cookie = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(_cookie_name(environ))
    except CookieError:
        return None
    return None if cookie is None else cookie.value


def _cookie_name(environ: WSGIEnvironment) -> str:
    """Cookies do not know ports, and a machine may have a dashboard on each of several."""
    return f"esgd_token_{environ['SERVER_PORT']}"


def _remember(environ: WSGIEnvironment, token: str) -> Response:
    """Move the token from the address into a cookie, so that it does not stay in sight."""
    query = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
    rest = urlencode([(name, value) for name, value in query if name != "token"])
    # A path that begins with two slashes would be another machine's address.
    path = "/" + quote(environ["PATH_INFO"].encode("latin-1")).lstrip("/")
    # Lax: with Strict, a link in a mail would arrive without the cookie it has just set.
    cookie = f"{_cookie_name(environ)}={token}; Path=/; HttpOnly; SameSite=Lax"
    headers = [
        ("Location", f"{path}?{rest}" if rest else path),
        ("Set-Cookie", cookie),
        ("Cache-Control", "no-store"),
        ("Content-Type", "text/plain"),
        ("Content-Length", "0"),
    ]
    return Response("303 See Other", headers, [b""])


def _add_headers(start_response: StartResponse) -> StartResponse:
    def start(
        status: str, headers: _Headers, exception: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        return start_response(status, list(_complete(headers)), exception)

    return start


def _complete(headers: _Headers) -> Iterator[tuple[str, str]]:
    yield from headers
    names = {name.lower() for name, _ in headers}
    for name, value in _HEADERS:
        if name.lower() not in names:
            yield name, value
    if _CONTENT_POLICY.lower() not in names:
        yield _CONTENT_POLICY, _UNTOLD
    yield _CONTENT_POLICY, _EVERYWHERE
