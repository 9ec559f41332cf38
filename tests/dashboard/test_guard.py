"""Who gets through, and with which headers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.dashboard.guard import Guard, Policy, choose_policy, is_loopback
from optuna_esgd.errors import ConfigurationError
from tests.dashboard.requests import Answer, ask, echo

TOKEN = "a-long-token-of-letters"
OWN = {"Host": "localhost:8080"}
READ_ONLY = Guard(echo, Policy())
WRITABLE = Guard(echo, Policy(is_writable=True))
WITH_TOKEN = Guard(echo, Policy(token=TOKEN))
OPEN = Guard(echo, choose_policy("0.0.0.0", allowed_hosts=["Box"], token=TOKEN, is_writable=False))


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8080", "LOCALHOST:1", "127.0.0.1:9000", "[::1]:8080", "[::1]"]
)
def test_loopback_names_get_through(host: str) -> None:
    assert ask(READ_ONLY, "/", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "evil.example:localhost",
        "localhost@evil.example",
        "evil.example#localhost",
        "localhost:8080:8080",
        "127.0.0.1.nip.example",
        "192.168.0.7:8080",
        "[::2]:8080",
        "",
        " ",
        "localhost\\evil",
    ],
)
def test_other_names_do_not(host: str) -> None:
    answer = ask(READ_ONLY, "/", headers={"Host": host})
    assert answer.status == 421
    assert "--allow-host" in answer.reason


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_no_text_slips_through_as_a_name(host: str) -> None:
    is_known = host.rpartition(":")[0].lower() in Policy().hosts or host.lower() in (
        "localhost",
        "127.0.0.1",
    )
    if not is_known and not host.startswith("["):
        assert ask(READ_ONLY, "/", headers={"Host": host}, validates=False).status == 421


@pytest.mark.parametrize("host", ["box:8080", "192.168.0.7:8080", "[2001:db8::1]:8080"])
def test_open_servers_go_by_their_names_and_addresses(host: str) -> None:
    bearer = {"Host": host, "Authorization": f"Bearer {TOKEN}"}
    assert ask(OPEN, "/", headers=bearer).status == 200
    assert ask(OPEN, "/", headers={**bearer, "Host": "evil.example"}).status == 421


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reading_is_free(method: str) -> None:
    assert ask(READ_ONLY, "/", method=method).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_writing_needs_to_be_allowed(method: str) -> None:
    answer = ask(READ_ONLY, "/api/studies/1", method=method)
    assert answer.status == 403
    assert "--write" in answer.reason
    assert ask(WRITABLE, "/api/studies/1", method=method).status == 200


@pytest.mark.parametrize("guard", [READ_ONLY, WRITABLE])
@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "CONNECT", "get", "BREW"])
def test_other_methods_are_unknown(guard: Guard, method: str) -> None:
    assert ask(guard, "/", method=method, validates=False).status == 405


CROSS_SITE = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:9999"},
    {"Origin": "http://["},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_other_sites_may_not_ask(headers: dict[str, str], method: str) -> None:
    answer = ask(WRITABLE, "/", method=method, headers=headers)
    assert answer.status == 403
    assert "site" in answer.reason


def test_a_link_from_elsewhere_opens_a_page_and_posts_nothing() -> None:
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert ask(WRITABLE, "/", headers=link).status == 200
    assert ask(WRITABLE, "/", method="POST", headers=link).status == 403


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://localhost:8080"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost:8080"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_the_own_site_and_programs_may_write(headers: dict[str, str]) -> None:
    assert ask(WRITABLE, "/", method="POST", headers=headers).status == 200


def cookie_of(answer: Answer) -> str:
    return answer.header("Set-Cookie").partition(";")[0]


def test_the_token_moves_from_the_address_into_a_cookie() -> None:
    answer = ask(WITH_TOKEN, f"/esgd/a%20b?x=1&token={TOKEN}&y=")
    assert answer.status == 303
    assert answer.header("Location") == "/esgd/a%20b?x=1&y="
    assert "HttpOnly" in answer.header("Set-Cookie")
    assert "SameSite=Lax" in answer.header("Set-Cookie")
    assert ask(WITH_TOKEN, "/", headers={"Cookie": cookie_of(answer)}).status == 200


@pytest.mark.parametrize("path", ["//evil.example/", "///evil.example", "/%2Fevil.example"])
def test_the_token_does_not_lead_elsewhere(path: str) -> None:
    answer = ask(WITH_TOKEN, f"{path}?token={TOKEN}", validates=False)
    location = answer.header("Location")
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))


@pytest.mark.parametrize(
    ("address", "headers"),
    [
        ("/", {}),
        ("/?token=", {}),
        ("/?token=wrong", {}),
        (f"/?token={TOKEN[:-1]}", {}),
        (f"/?token={TOKEN}x", {}),
        ("/", {"Authorization": "Bearer wrong"}),
        ("/", {"Authorization": f"Basic {TOKEN}"}),
        ("/", {"Authorization": TOKEN}),
        ("/", {"Cookie": "esgd_token_8080=wrong"}),
        ("/", {"Cookie": f"esgd_token_9090={TOKEN}"}),
        ("/", {"Cookie": f"=;;{TOKEN}"}),
        ("/", {"Authorization": "Bearer é"}),
    ],
)
@pytest.mark.parametrize("path", ["/", "/esgd/", "/api/studies", "/static/bundle.js"])
def test_without_the_token_nothing_is_shown(
    address: str, headers: dict[str, str], path: str
) -> None:
    answer = ask(WITH_TOKEN, address.replace("/", path, 1), headers=headers)
    assert answer.status == 401
    assert answer.header("WWW-Authenticate") == "Bearer"
    assert not answer.all("Set-Cookie")
    assert TOKEN.encode() not in answer.body


def test_a_bearer_gets_through() -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(WITH_TOKEN, "/", headers=headers).body == b"GET"


def test_a_wrong_token_beside_the_cookie_sets_nothing_else() -> None:
    cookie = cookie_of(ask(WITH_TOKEN, f"/?token={TOKEN}"))
    answer = ask(WITH_TOKEN, "/?token=x%3B%20Domain=evil", headers={"Cookie": cookie})
    assert cookie_of(answer) == cookie
    assert "evil" not in str(answer.headers)


def test_posts_do_not_carry_the_token_in_the_address() -> None:
    guard = Guard(echo, Policy(token=TOKEN, is_writable=True))
    assert ask(guard, f"/?token={TOKEN}", method="POST").status == 401


def test_every_answer_tells_browsers_to_be_careful() -> None:
    for answer in (
        ask(READ_ONLY, "/"),
        ask(READ_ONLY, "/", method="POST"),
        ask(READ_ONLY, "/", headers={"Host": "evil.example"}),
        ask(WITH_TOKEN, "/"),
        ask(WITH_TOKEN, f"/?token={TOKEN}"),
    ):
        assert answer.header("X-Content-Type-Options") == "nosniff"
        assert answer.header("Referrer-Policy") == "no-referrer"
        assert answer.header("Cross-Origin-Resource-Policy") == "same-origin"
        assert "frame-ancestors 'self'" in answer.all("Content-Security-Policy")[-1]


def test_what_says_nothing_of_itself_must_not_run() -> None:
    policies = ask(READ_ONLY, "/artifacts/1/upload.html").all("Content-Security-Policy")
    assert "sandbox" in policies[0]
    assert "default-src 'none'" in policies[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "localhost", "::1", "[::1]"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    assert choose_policy(host, token=None, is_writable=False).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.0.7", "box.example", "*"])
def test_beyond_loopback_a_token_is_needed(host: str) -> None:
    with pytest.raises(ConfigurationError, match="--token"):
        choose_policy(host, token=None, is_writable=False)
    assert choose_policy(host, token=TOKEN, is_writable=False).token == TOKEN


@pytest.mark.parametrize("token", ["", "short", "with space in the token", "ümlaut-ümlaut-ümlaut"])
def test_a_token_must_be_hard_to_guess_and_easy_to_send(token: str) -> None:
    with pytest.raises(ConfigurationError, match="16 or more"):
        choose_policy("127.0.0.1", token=token, is_writable=False)
