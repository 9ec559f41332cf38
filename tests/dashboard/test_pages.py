"""Our pages and what they ask for, without a server."""

from __future__ import annotations

import gzip
import html
import json
from urllib.parse import quote
from wsgiref.types import WSGIApplication

import optuna
import pytest
from safetensors.torch import load

import optuna_esgd as esgd
from optuna_esgd.dashboard.assets import KINDS
from optuna_esgd.visualization.figures import FIGURES
from tests.dashboard.requests import Answer, ask
from tests.dashboard.served import NASTY, serve_directly, train
from tests.trainer.studies import make_study, make_task


@pytest.fixture
def application(trained_url: str) -> WSGIApplication:
    return serve_directly(trained_url)


@pytest.fixture
def study(trained_url: str) -> optuna.Study:
    return make_study(storage=esgd.create_storage(trained_url))


def state_of(application: WSGIApplication, name: str = "s", **headers: str) -> Answer:
    return ask(application, f"/esgd-api/state?study={quote(name)}", headers=headers)


def test_the_list_leads_to_the_live_pages(application: WSGIApplication, trained_url: str) -> None:
    optuna.create_study(storage=esgd.create_storage(trained_url), study_name="without")
    page = ask(application, "/esgd/").body.decode()
    assert 'href="/esgd/s">s</a>' in page
    assert 'href="/dashboard/studies/1">12</a>' in page
    assert ">without</th>" in page
    assert ask(application, "/esgd").body.decode() == page


def test_a_live_page_names_its_study(application: WSGIApplication) -> None:
    answer = ask(application, "/esgd/s")
    assert answer.status == 200
    assert answer.header("Content-Type") == "text/html; charset=utf-8"
    assert 'data-study="s" data-study-id="1"' in answer.body.decode()


def test_pages_run_nothing_but_our_files(application: WSGIApplication) -> None:
    for address in ("/esgd/", "/esgd/s", "/esgd/unknown"):
        answer = ask(application, address)
        policy = answer.all("Content-Security-Policy")[0]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "unsafe-eval" not in policy
        page = answer.body.decode()
        assert "<script>" not in page
        assert "://" not in page.replace("http://www.w3.org", "")


def test_no_such_study(application: WSGIApplication) -> None:
    answer = ask(application, "/esgd/unknown")
    assert answer.status == 404
    assert "no study &#x27;unknown&#x27;" in answer.body.decode()
    assert state_of(application, "unknown").status == 404


def test_names_cannot_be_markup_or_addresses(url: str) -> None:
    train(url, name=NASTY, n_trials=4)
    application = serve_directly(url)
    listed = ask(application, "/esgd/").body.decode()
    address = f"/esgd/{quote(NASTY, safe='')}"
    assert f'href="{address}"' in listed
    page = ask(application, address).body.decode()
    for shown in (listed, page, ask(application, address + "x").body.decode()):
        assert "<script>alert" not in shown
        assert html.escape("<script>alert(1)</script>") in shown
    assert state_of(application, NASTY).json()["study"]["name"] == NASTY


def test_the_state_holds_all_figures_and_numbers(
    application: WSGIApplication, study: optuna.Study
) -> None:
    state = state_of(application).json()
    assert [figure["name"] for figure in state["figures"]] == list(FIGURES)
    assert all(figure["figure"]["data"] for figure in state["figures"])
    opening = {figure["name"] for figure in state["figures"] if figure["opens_trials"]}
    assert opening == set(FIGURES) - {"worker-timeline"}
    numbers = state["numbers"]
    assert numbers["n_individuals"] == 12
    assert numbers["generation"] == 2
    assert numbers["best_trial"] == study.best_trial.number
    assert numbers["best_value"] <= study.best_value
    assert state["study"] == {"id": 1, "name": "s", "direction": "minimize"}


def test_the_state_is_sent_once(application: WSGIApplication) -> None:
    answer = state_of(application)
    tag = answer.header("ETag")
    again = state_of(application, **{"If-None-Match": tag})
    assert (again.status, again.body) == (304, b"")
    assert again.header("ETag") == tag
    assert state_of(application, **{"If-None-Match": '"other", W/' + tag}).status == 304
    assert state_of(application, **{"If-None-Match": '"other"'}).status == 200


def test_a_change_is_seen(
    application: WSGIApplication, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna_esgd.dashboard.states._SHORTEST_PAUSE_SECONDS", 0)
    before = state_of(application)
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=4)
    after = state_of(application, **{"If-None-Match": before.header("ETag")})
    assert after.status == 200
    assert after.json()["numbers"]["n_individuals"] == 16


def test_many_readers_are_one_read(
    application: WSGIApplication, study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna_esgd.dashboard.states._SHORTEST_PAUSE_SECONDS", 3600)
    before = state_of(application)
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=4)
    assert state_of(application).body == before.body


def test_bodies_are_compressed_where_that_is_understood(application: WSGIApplication) -> None:
    plain = state_of(application)
    compressed = state_of(application, **{"Accept-Encoding": "gzip, br"})
    assert compressed.header("Content-Encoding") == "gzip"
    assert gzip.decompress(compressed.body) == plain.body


def test_maximization_shows_the_users_values(url: str) -> None:
    study = make_study(storage=esgd.create_storage(url), direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        model = make_task().build_model()
        with esgd.sgd_step(trial, model, lambda _: 10.0 + trial.number) as step:
            for _ in step.epochs():
                pass
        return step.fitness

    study.optimize(objective, n_trials=4)
    state = state_of(serve_directly(url)).json()
    assert state["study"]["direction"] == "maximize"
    assert state["numbers"]["best_value"] == max(
        row["value"] for row in state["individuals"]["rows"]
    )
    assert state["numbers"]["best_value"] >= 10


def test_a_study_that_has_not_begun(url: str) -> None:
    make_study(storage=esgd.create_storage(url))
    application = serve_directly(url)
    assert ask(application, "/esgd/s").status == 200
    answer = state_of(application)
    assert answer.status == 404
    assert "no population" in answer.reason
    train(url, n_trials=1)
    assert state_of(application).status == 200


def test_weights_are_what_the_trial_ended_with(
    application: WSGIApplication, study: optuna.Study
) -> None:
    rows = state_of(application).json()["individuals"]["rows"]
    assert {row["trial"] for row in rows} >= {8, 9, 10, 11}
    for row in rows[:3]:
        answer = ask(application, f"/esgd-api/weights?study=s&individual={row['reference']}")
        assert answer.status == 200
        assert int(answer.header("Content-Length")) == len(answer.body)
        tensors = load(answer.body)
        if row["trial"] is not None:
            model = esgd.load_individual(study, row["trial"], make_task().build_model())
            expected = model.state_dict()
            assert tensors.keys() == expected.keys()
            assert all((tensors[name] == expected[name]).all() for name in tensors)


def test_a_head_request_has_no_body(application: WSGIApplication) -> None:
    for address in ("/esgd/s", "/esgd-api/state?study=s", "/esgd-static/style.css"):
        answer = ask(application, address, method="HEAD")
        assert (answer.status, answer.body) == (200, b"")


def test_file_names_hold_nothing_dangerous(url: str) -> None:
    train(url, name=NASTY, n_trials=4)
    application = serve_directly(url)
    (row, *_) = state_of(application, NASTY).json()["individuals"]["rows"]
    query = f"study={quote(NASTY, safe='')}&individual={row['reference']}"
    disposition = ask(application, f"/esgd-api/weights?{query}").header("Content-Disposition")
    name = disposition.removeprefix('attachment; filename="').removesuffix('"')
    assert name == f"_script_alert_1_script_study_2e_2e_-{row['reference']}.safetensors"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("study=s&individual=2.0.999", 404),
        ("study=s&individual=0.0.0", 404),
        ("study=unknown&individual=2.0.0", 404),
        ("study=s&individual=../../etc/passwd", 400),
        ("study=s&individual=%2e%2e%2fesgd.db", 400),
        ("study=s&individual=2.0.0%00.txt", 400),
        ("study=s&individual=2.0.0%0d%0aX-Bad:%201", 400),
        ("study=s&individual=-1.0.0", 400),
        ("study=s&individual=2.0", 400),
        ("study=s&individual=%D9%A2.0.0", 400),
        ("study=s&individual=1000000000.0.0", 400),
        ("study=s", 400),
        ("individual=2.0.0", 400),
        ("study=s&study=t&individual=2.0.0", 400),
        ("study=../esgd.db&individual=2.0.0", 404),
        ("study=%00&individual=2.0.0", 404),
    ],
)
def test_tricks_with_weights(application: WSGIApplication, query: str, status: int) -> None:
    answer = ask(application, f"/esgd-api/weights?{query}")
    assert answer.status == status, answer.body
    assert answer.reason
    assert not answer.all("X-Bad")


@pytest.mark.parametrize(
    "address",
    [
        "/esgd-static/../pages.py",
        "/esgd-static/%2e%2e/pages.py",
        "/esgd-static/..%2fpages.py",
        "/esgd-static//etc/passwd",
        "/esgd-static/live.html",
        "/esgd-static/",
        "/esgd-api/",
        "/esgd-api/state/../weights",
        "/esgd-api/weights/../../etc/passwd",
    ],
)
def test_tricks_with_paths(application: WSGIApplication, address: str) -> None:
    answer = ask(application, address)
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body


def test_an_address_that_is_no_text(application: WSGIApplication) -> None:
    assert ask(application, "/esgd/%ff%fe").status == 400


@pytest.mark.parametrize("name", KINDS)
def test_assets_are_kept_by_browsers(application: WSGIApplication, name: str) -> None:
    answer = ask(application, f"/esgd-static/{name}")
    assert answer.header("Content-Type") == KINDS[name]
    assert len(answer.body) > 100
    known = {"If-None-Match": answer.header("ETag")}
    assert ask(application, f"/esgd-static/{name}", headers=known).status == 304


def test_the_state_is_json_browsers_can_read(application: WSGIApplication) -> None:
    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    json.loads(state_of(application).body, parse_constant=refuse)
