"""What optuna-dashboard shows after publishing."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta
from safetensors import safe_open

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError, StudyError
from optuna_esgd.visualization import publish
from optuna_esgd.visualization.publishing import PUBLISHED
from tests.trainer.studies import make_study, make_task
from tests.visualization.studies import toy_study

dashboard = pytest.importorskip("optuna_dashboard")
URL = "http://127.0.0.1:8080/esgd/toy"
IDS = [f"esgd-{name}" for name in PUBLISHED]


def ask_dashboard(study: optuna.Study) -> dict[str, Any]:
    """What the real dashboard answers for a study."""
    answer: list[str] = []
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": f"/api/studies/{study._study_id}",
        "QUERY_STRING": "after=0",
        "SERVER_NAME": "test",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }

    def start(status: str, headers: object, error: object = None) -> None:
        answer.append(status)

    body = dashboard.wsgi(study._storage)(environment, start)
    assert answer == ["200 OK"]
    detail: dict[str, Any] = json.loads(b"".join(body))
    return detail


def figures_in(detail: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["graph_object"] for one in detail["plotly_graph_objects"]}


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return toy_study(6, 3, storage=f"sqlite:///{tmp_path / 'esgd.db'}")


def test_the_dashboard_shows_figures_and_note(study: optuna.Study) -> None:
    assert publish(study, url=URL) == IDS
    detail = ask_dashboard(study)
    shown = figures_in(detail)
    assert sorted(shown) == sorted(IDS)
    assert f"[Live page]({URL})" in detail["note"]["body"]
    assert "18 individuals, up to generation 2" in detail["note"]["body"]
    for content in shown.values():
        assert len(content) < 100_000
        layout = json.loads(content)["layout"]
        assert layout["paper_bgcolor"] == layout["plot_bgcolor"] == "rgba(0,0,0,0)"
        assert "layout" not in layout["template"]  # no colours of its own
        assert "height" not in layout


def test_publishing_again_replaces(study: optuna.Study, tmp_path: Path) -> None:
    dashboard.save_note(study, "Mine.")
    publish(study, url=URL)
    before = figures_in(ask_dashboard(study))
    more = toy_study(6, 5, storage=f"sqlite:///{tmp_path / 'esgd.db'}")
    publish(more)
    after = ask_dashboard(more)
    assert sorted(figures_in(after)) == sorted(IDS)
    assert figures_in(after) != before
    body = after["note"]["body"]
    assert body.startswith("Mine.\n")
    assert body.count("### Population") == 1
    assert "30 individuals" in body
    assert "Live page" not in body


def test_words_in_place_of_a_figure_that_is_too_large(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna_esgd.visualization.publishing._MOST_BYTES", 3000)
    publish(study)
    for content in figures_in(ask_dashboard(study)).values():
        figure = json.loads(content)
        assert "live page" in figure["layout"]["annotations"][0]["text"]


def test_the_best_weights_can_be_downloaded(tmp_path: Path) -> None:
    study = make_study(4)
    task = make_task()
    store = FileSystemArtifactStore(tmp_path)
    for _ in range(2):
        study.optimize(esgd.ESGDTrainer(task), n_trials=8)
        publish(study, artifact_store=store)
        (meta,) = get_all_artifact_meta(study)
        assert meta.filename == "esgd-best.safetensors"
        (path,) = tmp_path.iterdir()
        model = esgd.load_best(study, task.build_model())
        with safe_open(path, "pt") as file:
            for name, tensor in model.named_parameters():
                assert file.get_tensor(name).equal(tensor)


def test_nobody_has_finished_yet(tmp_path: Path) -> None:
    study = toy_study(4, 2, n_finished=0)
    publish(study, artifact_store=FileSystemArtifactStore(tmp_path))
    assert "No individual has finished yet." in dashboard.get_note(study)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("url", ["javascript:alert(1)", "http://x/ y", "http://x)[", "", "x"])
def test_addresses_are_checked_first(study: optuna.Study, url: str) -> None:
    with pytest.raises(ConfigurationError, match="url must be an address"):
        publish(study, url=url)
    assert figures_in(ask_dashboard(study)) == {}


def test_what_cannot_be_published() -> None:
    with pytest.raises(StudyError, match="no population"):
        publish(optuna.create_study())


def test_without_optuna_dashboard(monkeypatch: pytest.MonkeyPatch, study: optuna.Study) -> None:
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(ImportError, match=r"pip install 'optuna_esgd\[dashboard\]'"):
        publish(study)
