"""Training a genealogy again, from the database alone, to the same digest."""

from __future__ import annotations

import sqlite3
from typing import Any

import optuna
import pytest
import torch
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.engine.individual import Reference
from optuna_esgd.errors import ConfigurationError, ReplayError, StudyError, WeightsNotFoundError
from optuna_esgd.species import Species
from optuna_esgd.store.opening import open_results
from tests.databases import MakeDatabase
from tests.trainer.studies import make_study, make_task

SPECIES = ("SGD", "Adam", "Rprop")


class Tiny(esgd.Task):
    """A linear model; where it begins, what it learns and how well is a matter of microseconds."""

    def __init__(self, *, step: float = 1.0, fails_in: int | None = None) -> None:
        self.step = step
        self.fails_in = fails_in

    def build_model(self) -> nn.Module:
        return nn.Linear(8, 1)

    def train_epoch(self, model: nn.Module, optimizer: Any, epoch: esgd.Epoch) -> None:
        if epoch.generation == self.fails_in:
            raise ValueError("out of cheese")
        for _ in range(3):
            inputs = torch.randn(4, 8)
            optimizer.zero_grad()
            (self.step * (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()).backward()
            optimizer.step(lambda: 0.0)

    def fitness(self, model: nn.Module) -> float:
        inputs = torch.linspace(-1, 1, 64).reshape(8, 8).cos()
        return float((model(inputs) - inputs.sum(1, keepdim=True)).square().mean())


class Averaging(Tiny):
    """Where nothing is learnt and the mean of two is always better than both."""

    def train_epoch(self, model: nn.Module, optimizer: Any, epoch: esgd.Epoch) -> None:
        del model, optimizer, epoch

    def fitness(self, model: nn.Module) -> float:
        return sum(float(parameter.detach().square().sum()) for parameter in model.parameters())


def check(study: optuna.Study, trainer: esgd.ESGDTrainer, **options: Any) -> Any:
    """Replay, and compare with what is stored."""
    done = esgd.replay(study, trainer, **options)
    population = open_results(study, trainer.store)
    assert done.digest == done.individual.weights
    if done.individual.is_stored:
        stored = esgd.load_best(study, trainer.task.build_model()).state_dict()
        for name, tensor in done.weights.items():
            assert torch.equal(tensor, stored[name])
    everyone = population.individuals()
    trained = [one for one in everyone if one.reference.round == 0 and one.fitness is not None]
    assert done.n_trained_in_run == len(trained)
    assert 0 < done.n_ancestors <= len(trained)
    return done


@pytest.mark.parametrize("model", ["mlp", "batch-norm", "dropout"])
def test_batched_cohorts(model: str) -> None:
    """Where the number of rows touches the bits, the cohort's shape is kept."""
    study, trainer = make_study(), esgd.ESGDTrainer(make_task(model), species=SPECIES)
    study.optimize(trainer, n_trials=12)
    done = check(study, trainer)
    assert done.n_gradients < done.n_gradients_in_run or done.n_companions


def test_companions_keep_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arithmetic that depends on the number of rows, whatever this machine's does."""
    from optuna_esgd.trainer.batched_model import BatchedModel

    gradients = BatchedModel.gradients

    def depending(self: BatchedModel, weights: Any, *others: Any) -> Any:
        found, losses = gradients(self, weights, *others)
        return {name: one * (1 + weights.n_rows / 64) for name, one in found.items()}, losses

    monkeypatch.setattr(BatchedModel, "gradients", depending)
    study, trainer = make_study(6), esgd.ESGDTrainer(make_task("mlp"), species=SPECIES[:2])
    study.optimize(trainer, n_trials=18)
    assert check(study, trainer).n_companions > 0


def test_a_line_without_recombination_costs_a_population_th() -> None:
    """K steps instead of μ·K."""
    # Settings with which the best one is of the last generation.
    study = make_study(5, n_offspring=0, average_steps=False, keep_probability=0.0, seed=5)
    trainer = esgd.ESGDTrainer(Tiny(), device="cpu")
    study.optimize(trainer, n_trials=20)
    done = check(study, trainer)
    assert (done.n_ancestors, done.n_trained_in_run, done.n_companions) == (4, 20, 0)
    assert done.n_gradients * 5 == done.n_gradients_in_run


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"preset": "paper", "n_epochs": 3},
        {"n_evolution_rounds": 2},
        {"selection": "truncation", "back_off": "none"},
        {"asynchronous": True},
        {"n_parents": 3, "roulette": "inverse"},
    ],
    ids=lambda settings: " ".join(settings) or "coevolve",
)
def test_settings(settings: dict[str, Any]) -> None:
    study, trainer = make_study(5, **settings), esgd.ESGDTrainer(Tiny(), species=SPECIES)
    study.optimize(trainer, n_trials=25)
    check(study, trainer)


@pytest.mark.parametrize(
    "options",
    [
        {"anchor": nn.Linear(8, 1)},
        {"mutation": "metropolis"},
        {"diversity": "suppression", "cohort_size": 3},
        {"diversity": "coupling", "cohort_size": 3},
        {"cohort_size": 3},
        {"species": [Species(torch.optim.ASGD), "SGD"]},
    ],
    ids=" ".join,
)
def test_trainers(options: dict[str, Any]) -> None:
    study, trainer = make_study(6), esgd.ESGDTrainer(Tiny(), **options)
    study.optimize(trainer, n_trials=24)
    done = check(study, trainer)
    if "diversity" in options:  # everyone in a cohort depends on the others
        assert done.n_ancestors % 3 == 0


@pytest.mark.parametrize(
    ("model", "guides", "species"),
    [
        ("dropout", {"schedule": "cosine", "dropout": (0.0, 0.5), "batches": "oddball"}, SPECIES),
        ("mlp", {}, [Species(torch.optim.LBFGS, max_iter=2), "EntropySGD", "SGD"]),
        ("branching", {}, SPECIES),
    ],
)
def test_guides_and_closures(model: str, guides: dict[str, Any], species: Any) -> None:
    study, trainer = make_study(), esgd.ESGDTrainer(make_task(model, **guides), species=species)
    study.optimize(trainer, n_trials=12)
    check(study, trainer)


def test_the_best_may_be_an_offspring() -> None:
    study, trainer = make_study(), esgd.ESGDTrainer(Averaging())
    study.optimize(trainer, n_trials=8)
    done = check(study, trainer)
    assert done.individual.reference.round == 1
    assert done.n_gradients == 0


def test_births_that_stand_after_failures_stand_again() -> None:
    trainer = esgd.ESGDTrainer(Tiny(fails_in=1), cohort_size=2)
    study = make_study(max_tries=1)
    study.optimize(trainer, n_trials=20, catch=(ValueError,))
    assert any(one.n_epochs == 0 for one in esgd.ancestry(study) if one.reference.round == 0)
    check(study, trainer)


def test_any_trial_even_if_its_weights_were_collected() -> None:
    study, trainer = make_study(), esgd.ESGDTrainer(Tiny())
    study.optimize(trainer, n_trials=20)
    open_results(study).collect_garbage()
    one = open_results(study).individual_of_trial(5)
    assert one is not None
    assert not one.is_stored
    done = esgd.replay(study, trainer, trial=5)
    assert (done.digest, done.individual.reference) == (one.weights, one.reference)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_from_the_database_alone(kind: str, make_database: MakeDatabase) -> None:
    """Another process's study, without a sampler; nothing is written."""
    url = make_database(kind)
    make_study(storage=esgd.create_storage(url)).optimize(
        esgd.ESGDTrainer(Tiny(), species=SPECIES), n_trials=12
    )

    def content() -> list[str]:
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            lines = list(connection.iterdump())
        connection.close()
        return lines

    before = content() if kind == "sqlite" else []
    study = optuna.load_study(study_name="s", storage=url)
    heard: list[Reference] = []
    done = esgd.replay(
        study,
        esgd.ESGDTrainer(Tiny(), species=SPECIES),
        on_trained=lambda one: heard.append(one.reference),
    )
    assert done.digest == done.individual.weights
    assert len(heard) == done.n_ancestors
    if kind == "sqlite":
        assert content() == before


def test_the_first_that_differs_is_named() -> None:
    study = make_study()
    study.optimize(esgd.ESGDTrainer(Tiny()), n_trials=12)
    heard: list[Reference] = []
    with pytest.raises(
        ReplayError, match=r"Individual 0\.0\.\d, trial \d, species .* is the first"
    ):
        esgd.replay(
            study,
            esgd.ESGDTrainer(Tiny(step=1.01)),
            on_trained=lambda one: heard.append(one.reference),
        )
    assert heard == []


def test_what_cannot_be_replayed() -> None:
    study, trainer = make_study(), esgd.ESGDTrainer(Tiny())
    with pytest.raises(StudyError, match="no population"):
        esgd.replay(study, trainer)
    trainer.open(study)
    with pytest.raises(WeightsNotFoundError, match="No individual has finished"):
        esgd.replay(study, trainer)
    study.optimize(trainer, n_trials=4)
    with pytest.raises(ConfigurationError, match="species 'RMSprop'"):
        esgd.replay(study, esgd.ESGDTrainer(Tiny(), species=["RMSprop"]))
    with pytest.raises(ConfigurationError, match="got Tiny"):
        esgd.replay(study, trainer.task)  # type: ignore[arg-type]
