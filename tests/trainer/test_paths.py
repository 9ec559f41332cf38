"""Networks of modules in a population: the path is inherited, mutated, and part of the result."""

from __future__ import annotations

from typing import Any

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


def make_trainer(**arguments: Any) -> esgd.ESGDTrainer:
    task = make_task(model=network)
    return esgd.ESGDTrainer(task, **{"mutation": "path", "species": ["SGD"], **arguments})


def test_founders_have_paths_of_their_own_and_offspring_mutated_ones() -> None:
    study, trainer = make_study(4, n_parents=1, n_offspring=8), make_trainer()
    found: dict[int, torch.Tensor] = {}
    for _ in range(3):  # weights of those who are gone are cleared away
        study.optimize(trainer, n_trials=4)
        for trial in study.trials[-4:]:
            found[trial.number] = esgd.load_individual(study, trial, network()).path
    assert verify(open_results(study)) == []
    assert len({tuple(found[number].flatten().tolist()) for number in range(4)}) > 1
    everyone = {one.reference: one for one in open_results(study).individuals()}
    bred = [one for one in everyone.values() if one.birth == "recombination"]
    shown = [one for one in bred if one.trial_number is not None]
    assert shown
    n_changed = 0
    for one in shown:
        parent = everyone[one.parents[0]]
        assert one.trial_number is not None
        assert parent.trial_number is not None
        distance = (found[one.trial_number] - found[parent.trial_number]).abs()
        assert torch.minimum(distance, 5 - distance).max() <= 2
        n_changed += int((distance > 0).sum())
    assert n_changed > 0


def test_runs_repeat_and_by_object_is_by_name() -> None:
    values = []
    for arguments in ({}, {"mutation": PathMutation(), "cohort_size": 2}):
        study = make_study(4, n_parents=1, n_offspring=4)
        study.optimize(make_trainer(**arguments), n_trials=8)
        values.append([trial.value for trial in study.trials])
    assert values[0] == values[1]


def test_refuses_a_model_without_a_path() -> None:
    trainer = esgd.ESGDTrainer(make_task(), mutation="path")
    with pytest.raises(ConfigurationError, match=r"PathMutation\(\) moves the path .* Sequential"):
        trainer.open(make_study())
