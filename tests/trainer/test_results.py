"""After training: best weights, files, soups, ensembles, lineage."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError, StudyError, WeightsNotFoundError
from optuna_esgd.store.opening import open_results
from tests.trainer.models import MODELS
from tests.trainer.studies import make_study, make_task


@pytest.fixture(params=["mlp", "batch-norm", "tied"])
def task(request: pytest.FixtureRequest) -> esgd.SupervisedTask:
    return make_task(request.param)


@pytest.fixture
def study(task: esgd.SupervisedTask) -> optuna.Study:
    study = make_study(6, n_epochs=1)
    study.optimize(esgd.ESGDTrainer(task), n_trials=24)
    return study


def test_a_trial_s_weights_have_the_trial_s_value(
    study: optuna.Study, task: esgd.SupervisedTask
) -> None:
    for trial in study.trials[-6:]:
        model = esgd.load_individual(study, trial, task.build_model())
        assert task.fitness(model) == pytest.approx(trial.value, rel=1e-4)
    by_number = esgd.load_individual(study, study.trials[-1].number, task.build_model())
    for one, other in zip(by_number.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_old_weights_are_collected_unless_pinned(task: esgd.SupervisedTask) -> None:
    study = make_study(6, n_epochs=1)
    trainer = esgd.ESGDTrainer(task)
    study.optimize(trainer, n_trials=6)
    esgd.pin(study, 2)
    study.optimize(trainer, n_trials=24)
    open_results(study).collect_garbage()
    esgd.load_individual(study, 2, task.build_model())
    everyone = open_results(study).individuals(generation=0)
    gone = [one for one in everyone if one.reference.round == 0 and not one.is_stored]
    assert len(gone) >= 4
    with pytest.raises(WeightsNotFoundError, match=r"pin|collected"):
        esgd.load_individual(study, gone[0].trial_number, task.build_model())
    with pytest.raises(WeightsNotFoundError, match="Trial 999"):
        esgd.load_individual(study, 999, task.build_model())


def test_what_is_no_trial_is_refused(tmp_path: Path) -> None:
    study, task = make_study(), make_task()
    study.optimize(esgd.ESGDTrainer(task), n_trials=4)
    wrong: list[Any] = ["2", 2.0, True]
    for trial in wrong:
        with pytest.raises(ConfigurationError, match=f"a trial's number, .*got {trial!r}"):
            esgd.pin(study, trial)
        with pytest.raises(ConfigurationError, match="a trial's number"):
            esgd.load_individual(study, trial, task.build_model())
        with pytest.raises(ConfigurationError, match="a trial's number"):
            esgd.export(study, tmp_path / "x.safetensors", trial=trial)
    assert list(tmp_path.iterdir()) == []
    esgd.pin(study, study.best_trial)


def test_export_is_a_safetensors_file(
    study: optuna.Study, task: esgd.SupervisedTask, tmp_path: Path
) -> None:
    path = esgd.export(study, tmp_path / "best.safetensors")
    model = esgd.load_best(study, task.build_model())
    stored = load_file(path)
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]
    fresh = task.build_model()
    fresh.load_state_dict(stored, strict=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor)


def test_exports_of_the_same_are_the_same_bytes(study: optuna.Study, tmp_path: Path) -> None:
    exported = {esgd.export(study, tmp_path / f"{n}.safetensors").read_bytes() for n in range(8)}
    assert len(exported) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata()["study"] == study.study_name


def test_ancestors_and_the_log_speak_the_study_s_direction(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(-1) == targets).float().mean()

    study = make_study(direction="maximize")
    with caplog.at_level(logging.INFO, "optuna_esgd"):
        study.optimize(esgd.ESGDTrainer(make_task(metric=accuracy)), n_trials=12)
    last = next(one for one in reversed(esgd.ancestry(study)) if one.reference.round == 0)
    assert last.fitness == study.trials[last.trial_number or 0].value
    assert last.birth_fitness is not None
    assert 0 <= last.birth_fitness <= last.fitness
    said = [one.getMessage() for one in caplog.records if "Generation 1 done" in one.getMessage()]
    best = esgd.certificate(study)[1][0]
    assert f"best fitness {best:.6g}, " in said[0]
    assert best > 0


def test_lineage_is_a_table_of_everybody(study: optuna.Study) -> None:
    table = esgd.lineage(study)
    trained = table[table["round"] == 0]
    assert len(trained) == 24
    assert set(trained["trial"]) == set(range(24))
    assert (trained["value"] <= trained["value_at_birth"]).all()
    assert "params_lr" in table
    line = esgd.ancestry(study)
    assert line[0].birth == "founder"
    for parent, child in itertools.pairwise(line):
        assert parent.reference in child.parents
        assert child.fitness is not None


def test_results_of_a_study_without_population() -> None:
    study = optuna.create_study()
    with pytest.raises(StudyError, match="no population"):
        esgd.load_best(study, nn.Linear(1, 1))
    empty = make_study()
    trainer = esgd.ESGDTrainer(make_task())
    trainer.open(empty)
    with pytest.raises(WeightsNotFoundError, match="No individual has finished"):
        esgd.load_best(empty, nn.Linear(1, 1))


def test_another_model_is_refused() -> None:
    study, task = make_study(), make_task()
    study.optimize(esgd.ESGDTrainer(task), n_trials=4)
    with pytest.raises(StudyError, match="not the one that was trained"):
        esgd.load_best(study, MODELS["batch-norm"][0]())
    wider = nn.Sequential(nn.Linear(6, 13), nn.ReLU(), nn.Linear(13, 3))
    with pytest.raises(StudyError, match=r"0.weight has shape \(13, 6\), stored is \(12, 6\)"):
        esgd.load_best(study, wider)
