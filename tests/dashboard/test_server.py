"""The command itself, in a process of its own."""

from __future__ import annotations

import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from dashboards.browsing import serving
from optuna_esgd.cli import main
from optuna_esgd.dashboard.server import describe_places, listen
from optuna_esgd.errors import ConfigurationError

TOKEN = "a-token-from-the-environment"


def read(address: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_command_serves_until_it_is_interrupted(trained_url: str) -> None:
    with serving(trained_url) as root:
        assert read(f"{root}/esgd/s")[0] == 200
        assert read(f"{root}/api/studies", **{"Accept-Encoding": "gzip"})[0] == 200
        assert read(f"{root}/api/studies", Host="evil.example")[0] == 421
    with pytest.raises(urllib.error.URLError):
        read(f"{root}/esgd/s")


def test_beyond_loopback_with_a_token_from_the_environment(trained_url: str) -> None:
    environment = {**os.environ, "OPTUNA_ESGD_TOKEN": TOKEN}
    options = ("--host", "0.0.0.0", "--token", "--allow-host", "box.example")
    with serving(trained_url, *options, environment=environment) as root:
        local = root.replace("0.0.0.0", "127.0.0.1")
        assert read(f"{local}/esgd/")[0] == 401
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert read(f"{local}/esgd/", **bearer)[0] == 200
        assert read(f"{local}/esgd/", Host="box.example", **bearer)[0] == 200
        assert read(f"{local}/esgd/", Host="evil.example", **bearer)[0] == 421


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["dashboard", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("optuna-esgd: ")
    assert len(told.err.splitlines()) == 1
    return told.err


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "box.example"])
def test_open_addresses_need_a_token(
    host: str, trained_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--token" in refused([trained_url, "--host", host], capsys)


def test_a_guessable_token_is_refused(
    trained_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTUNA_ESGD_TOKEN", "secret")
    error = refused([trained_url, "--token"], capsys)
    assert "16 or more" in error
    assert "secret" not in error


def test_a_port_that_is_taken(trained_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"port {port}" in refused([trained_url, "--port", str(port)], capsys)


def test_a_name_that_leads_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigurationError, match="Cannot listen"):
        listen("nowhere.invalid", 0)


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_no_port(port: str, trained_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "0 to 65535" in refused([trained_url, f"--port={port}"], capsys)


def test_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no" in refused([f"sqlite:///{tmp_path}/nowhere.db"], capsys)
    assert list(tmp_path.iterdir()) == []


def test_what_to_open_is_told() -> None:
    told = describe_places("::1", 8080, TOKEN, is_writable=False)
    assert f"http://[::1]:8080/esgd/?token={TOKEN}" in told
    assert "Read only" in told
    assert "can be changed" in describe_places("127.0.0.1", 1, None, is_writable=True)
