"""The real optuna-dashboard beside our pages, on every database."""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import optuna
import pytest
from safetensors.torch import load_file

import optuna_esgd as esgd
from optuna_esgd.dashboard import Policy, make_application
from optuna_esgd.errors import MissingExtraError, StorageError
from optuna_esgd.store.artifacts import SqlArtifactStore
from optuna_esgd.visualization import publish
from tests.dashboard.requests import ask
from tests.dashboard.served import serve_directly, train
from tests.trainer.studies import make_study, make_task


def test_every_database_is_served(database_url: str) -> None:
    train(database_url)
    application = serve_directly(database_url)
    (listed,) = ask(application, "/api/studies").json()["study_summaries"]
    assert listed["study_name"] == "s"
    detail = ask(application, f"/api/studies/{listed['study_id']}").json()
    assert len(detail["trials"]) == 12
    assert ask(application, "/esgd/s").status == 200
    state = ask(application, "/esgd-api/state?study=s").json()
    assert state["numbers"]["n_individuals"] == 12
    individual = state["individuals"]["rows"][0]["reference"]
    weights = ask(application, f"/esgd-api/weights?study=s&individual={individual}")
    assert weights.status == 200
    assert ask(application, "/esgd-api/state?study=%00").status == 404


def test_optuna_dashboard_owns_the_root(trained_url: str) -> None:
    application = serve_directly(trained_url)
    # Bottle sends headers that wsgiref's checker does not like.
    assert ask(application, "/", validates=False).header("Location").endswith("/dashboard")
    page = ask(application, "/dashboard/studies/1", validates=False)
    assert b'src="/static/bundle.js"' in page.body
    first, second = page.all("Content-Security-Policy")
    assert "script-src 'self'" in first
    assert "frame-ancestors" in second


def test_new_trials_are_seen(trained_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    application = serve_directly(trained_url)
    assert len(ask(application, "/api/studies/1").json()["trials"]) == 12
    train(trained_url, n_trials=4)
    # optuna-dashboard itself keeps trials for two seconds.
    monkeypatch.setattr("optuna_dashboard._storage.timedelta", lambda seconds: dt.timedelta())
    assert len(ask(application, "/api/studies/1").json()["trials"]) == 16


WRITES = [
    ("POST", "/api/studies", {"study_name": "new", "directions": ["minimize"]}),
    ("POST", "/api/studies/1/rename", {"study_name": "renamed"}),
    ("DELETE", "/api/studies/1", {}),
    ("PUT", "/api/studies/1/note", {"body": "x", "version": 1}),
    ("POST", "/api/trials/1/user-attrs", {"user_attrs": {"x": 1}}),
    ("POST", "/incompatible-rdb-schema", None),
]


@pytest.mark.parametrize(("method", "address", "body"), WRITES)
def test_nothing_is_written_unless_asked(
    trained_url: str, method: str, address: str, body: object
) -> None:
    application = serve_directly(trained_url)
    answer = ask(application, address, method=method, body=body)
    assert answer.status == 403
    assert "--write" in answer.reason
    study = make_study(storage=esgd.create_storage(trained_url))
    assert len(study.trials) == 12
    assert "x" not in study.trials[0].user_attrs


def test_a_renamed_study_keeps_its_population(trained_url: str) -> None:
    application = serve_directly(trained_url, is_writable=True)
    before = ask(application, "/esgd-api/state?study=s").json()
    answer = ask(
        application, "/api/studies/1/rename", method="POST", body={"study_name": "renamed"}
    )
    assert answer.status == 201
    after = ask(application, "/esgd-api/state?study=renamed").json()
    assert after["numbers"] == before["numbers"]
    assert after["study"]["id"] != before["study"]["id"]
    (listed,) = ask(application, "/api/studies").json()["study_summaries"]
    assert listed["study_name"] == "renamed"
    study = make_study(storage=esgd.create_storage(trained_url), name="renamed")
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=4)
    assert len(study.trials) == 16


def test_a_deleted_study_is_gone(trained_url: str) -> None:
    application = serve_directly(trained_url, is_writable=True)
    assert ask(application, "/api/studies/1", method="DELETE", body={}).status == 204
    assert ask(application, "/esgd/s").status == 404
    assert ask(application, "/esgd-api/state?study=s").status == 404


def test_the_next_study_of_an_id_is_not_taken_for_the_first(trained_url: str) -> None:
    application = serve_directly(trained_url)
    assert len(ask(application, "/api/studies/1").json()["trials"]) == 12
    optuna.delete_study(study_name="s", storage=trained_url)
    train(trained_url, n_trials=4)  # SQLite gives it the same id
    detail = ask(application, "/api/studies/1").json()
    assert len(detail["trials"]) == 4
    state = ask(application, "/esgd-api/state?study=s").json()
    assert state["numbers"]["n_individuals"] in (4, 12)  # the latter for a second


def test_a_file_that_is_made_again(trained_url: str, tmp_path: Path) -> None:
    application = serve_directly(trained_url)
    assert len(ask(application, "/api/studies/1").json()["trials"]) == 12
    for part in tmp_path.glob("trained.db*"):
        part.unlink()
    answer = ask(application, "/api/studies")
    assert answer.status == 503
    assert "no database file" in answer.reason
    assert ask(application, "/esgd/").status == 503
    train(trained_url, name="other", n_trials=4)
    (listed,) = ask(application, "/api/studies").json()["study_summaries"]
    assert listed["study_name"] == "other"
    assert ask(application, "/esgd/other").status == 200


def test_published_weights_can_be_downloaded(trained_url: str, tmp_path: Path) -> None:
    study = make_study(storage=esgd.create_storage(trained_url))
    publish(study, artifact_store=SqlArtifactStore(trained_url))
    application = serve_directly(trained_url)
    (artifact,) = ask(application, "/api/studies/1").json()["artifacts"]
    answer = ask(application, f"/artifacts/1/{artifact['artifact_id']}", validates=False)
    path = tmp_path / "best.safetensors"
    path.write_bytes(answer.body)
    best = esgd.load_best(study, make_task().build_model()).state_dict()
    assert all((tensor == best[name]).all() for name, tensor in load_file(path).items())


def test_weights_in_another_database(tmp_path: Path, url: str) -> None:
    store = f"sqlite:///{tmp_path}/weights.db"
    study = make_study(storage=esgd.create_storage(url))
    study.optimize(esgd.ESGDTrainer(make_task(), store=store), n_trials=4)
    alone = serve_directly(url)
    assert "another database" in ask(alone, "/esgd-api/state?study=s").reason
    together = make_application(url, store=store, policy=Policy())
    assert ask(together, "/esgd-api/state?study=s").status == 200


def test_a_database_that_is_not_there(url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no"):
        serve_directly(url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("module", ["optuna_dashboard", "waitress"])
def test_what_is_missing_is_named(
    module: str, trained_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"optuna_esgd\[dashboard\]"):
        serve_directly(trained_url)
