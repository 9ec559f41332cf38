"""Networks of modules in a population: the path is inherited, mutated, and part of the result."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import torch

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.modules import PathwayNetwork
from optuna_esgd.operators import PathMutation
from optuna_esgd.store.verification import verify
from optuna_esgd.trainer.results import open_results
from tests.trainer.studies import make_study, make_task


def network() -> PathwayNetwork:
    return PathwayNetwork(6, 3, layers=2, modules=5, active=2, width=6)


def train(n_trials: int = 12, **arguments: Any) -> optuna.Study:
    study = make_study(4, n_parents=1, n_offspring=8)
    trainer = esgd.ESGDTrainer(
        make_task(model=network), **{"mutation": "path", "species": ["SGD"], **arguments}
    )
    study.optimize(trainer, n_trials=n_trials)
    return study


def paths(study: optuna.Study) -> dict[int, torch.Tensor]:
    return {
        trial.number: esgd.load_individual(study, trial, network()).path for trial in study.trials
    }


def test_founders_have_paths_of_their_own_and_offspring_mutated_ones() -> None:
    study = train()
    assert verify(open_results(study)) == []
    found = paths(study)
    founders = {tuple(found[number].flatten().tolist()) for number in range(4)}
    assert len(founders) > 1
    bred = [t for t in study.trials if t.user_attrs["birth"] == "recombination"]
    assert bred
    changed = 0
    by_reference = {one.reference: one for one in open_results(study).individuals()}
    for trial in bred:
        one = open_results(study).individual_of_trial(trial.number)
        assert one is not None
        parent = by_reference[one.parents[0]]
        assert parent.trial_number is not None
        before, after = found[parent.trial_number], found[trial.number]
        distance = (after - before).abs()
        assert torch.minimum(distance, 5 - distance).max() <= 2
        changed += int((distance > 0).sum())
    assert changed > 0


def test_modules_off_the_path_are_not_trained() -> None:
    study = train(4)
    for trial in study.trials:
        one = open_results(study).individual_of_trial(trial.number)
        assert one is not None
        model = esgd.load_individual(study, trial, network())
        births = esgd.ESGDTrainer(make_task(model=network), mutation="path", species=["SGD"])
        start = births.open(study)._workshop._births.weights([one]).read_row(0)  # type: ignore[attr-defined]
        active = model.path.tolist()
        for name, parameter in model.named_parameters():
            if name.startswith("grid"):
                _, layer, number, _ = name.split(".")
                if int(number) not in active[int(layer)]:
                    assert torch.equal(parameter, start[name])


def test_runs_repeat_and_by_object_is_by_name() -> None:
    first, second = train(8), train(8, mutation=PathMutation(), cohort_size=2)
    assert [t.value for t in first.trials] == [t.value for t in second.trials]


def test_refuses_a_model_without_a_path() -> None:
    trainer = esgd.ESGDTrainer(make_task(), mutation="path")
    with pytest.raises(ConfigurationError, match=r"PathMutation\(\) moves the path .* Sequential"):
        trainer.open(make_study())
