"""Mutations and diversity operators in a population, by name and by object."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.engine.individual import Individual
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.operators import (
    ClusterSuppression,
    ElasticCoupling,
    GradientNoiseMutation,
    Landscape,
    MetropolisMutation,
)
from optuna_esgd.store.verification import verify
from optuna_esgd.trainer import workshop
from optuna_esgd.trainer.results import open_results
from tests.trainer.models import MODELS, examples
from tests.trainer.studies import make_study, make_task

OPERATORS: dict[str, dict[str, Any]] = {
    "gradient noise": {"mutation": GradientNoiseMutation(rank=3)},
    "metropolis": {"mutation": MetropolisMutation(n_proposals=2)},
    "suppression": {"diversity": ClusterSuppression(distance=0.5, share=0.3)},
    "coupling": {"diversity": ElasticCoupling(0.1)},
    "both kinds": {"mutation": "gradient_noise", "diversity": "coupling"},
}


def train(
    study: optuna.Study, n_trials: int = 12, name: str = "batch-norm", **arguments: Any
) -> list[Individual]:
    trainer = esgd.ESGDTrainer(make_task(name), **{"cohort_size": 2, **arguments})
    study.optimize(trainer, n_trials=n_trials)
    # Without the generation that is planned already, and not begun.
    return [one for one in open_results(study).individuals() if one.fitness is not None]


@pytest.mark.parametrize("name", OPERATORS)
def test_nobody_ends_worse_than_it_was_born_and_the_best_never_gets_worse(name: str) -> None:
    study = make_study(n_evolution_rounds=2)
    everyone = train(study, **OPERATORS[name])
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 12
    for one in everyone:
        if one.reference.round == 0 and one.birth_fitness is not None:
            assert one.fitness_or_inf <= one.birth_fitness
    means = list(esgd.certificate(study).values())
    for r in range(len(means[0])):
        assert [m[r] for m in means] == sorted((m[r] for m in means), reverse=True)
    assert verify(open_results(study)) == []


@pytest.mark.parametrize("name", OPERATORS)
def test_two_workers_in_turn_are_bit_identical_to_one(name: str, tmp_path: Path) -> None:
    alone = train(make_study(), 8, **OPERATORS[name])
    url = f"sqlite:///{tmp_path}/esgd.db"
    for n_trials in (1, 2, 5):  # each time a worker that remembers nothing
        shared = train(make_study(storage=url), n_trials, **OPERATORS[name])
    facts = [
        [(one.reference, one.parents, one.weights, one.fitness, one.n_back_offs) for one in run]
        for run in (alone, shared)
    ]
    assert facts[0] == facts[1]


@pytest.mark.parametrize("name", OPERATORS)
def test_row_by_row_is_the_same_as_batched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[float]:
        def double(part: torch.Tensor) -> torch.Tensor:
            return part.double() if part.is_floating_point() else part

        task = make_task(
            model=lambda: MODELS["batch-norm"][0]().double(),
            train=tuple(map(double, examples("batch-norm", 0))),
            validation=tuple(map(double, examples("batch-norm", 1))),
        )
        study = make_study()
        study.optimize(esgd.ESGDTrainer(task, **OPERATORS[name]), n_trials=8)
        return [t.value for t in study.trials]

    batched = run()
    monkeypatch.setattr(workshop, "why_not_batched", lambda *_: ("told so", "told so"))
    assert run() == pytest.approx(batched, rel=1e-6)


def offspring(everyone: list[Individual]) -> list[Individual]:
    return [one for one in everyone if one.reference.round > 0]


@pytest.mark.parametrize(
    ("mutation", "n_gradients", "n_evaluations"),
    [("gaussian", 0, 1), ("gradient_noise", 8, 1), (MetropolisMutation(n_proposals=3), 0, 5)],
)
def test_what_a_mutation_asks_is_charged(
    mutation: Any, n_gradients: int, n_evaluations: int
) -> None:
    bred = offspring(train(make_study(), 8, mutation=mutation))
    assert bred
    assert {one.n_gradients for one in bred} == {n_gradients}
    assert {one.n_evaluations for one in bred} == {n_evaluations}


@pytest.mark.parametrize("mutation", ["gradient_noise", "metropolis"])
def test_without_a_scale_nothing_mutates(mutation: str) -> None:
    digests = [
        [(one.weights, one.fitness) for one in train(make_study(mutation_scale=0), mutation=how)]
        for how in ("gaussian", mutation)
    ]
    assert digests[0] == digests[1]


def test_offspring_that_are_conditioned_are_never_worse_than_the_mean_of_their_parents() -> None:
    runs = {
        how: offspring(train(make_study(mutation_scale=scale), 4, mutation=how, name="mlp"))
        for how, scale in (("gaussian", 0.0), ("metropolis", 0.3))
    }
    assert [one.parents for one in runs["gaussian"]] == [one.parents for one in runs["metropolis"]]
    pairs = [
        (mean.fitness_or_inf, mutated.fitness_or_inf)
        for mean, mutated in zip(*runs.values(), strict=True)
    ]
    assert all(mutated <= mean + 1e-6 for mean, mutated in pairs)
    assert 0 < sum(mutated < mean for mean, mutated in pairs) < len(pairs)


class Shift:
    """A mutation of one's own."""

    n_gradients = 0
    n_evaluations = 0

    def mutate(self, model: nn.Module, sigma: float, landscape: Landscape, *, seed: int) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(100.0)

    def __repr__(self) -> str:
        return "Shift()"


def test_a_mutation_of_ones_own() -> None:
    bred = offspring(train(make_study(), 4, mutation=Shift()))
    plain = offspring(train(make_study(), 4))
    assert min(one.fitness_or_inf for one in bred) > max(one.fitness_or_inf for one in plain)


class Everything(ClusterSuppression):
    """One cluster for everybody."""

    def __init__(self) -> None:
        super().__init__(distance=2.0, share=0.01)


def test_who_is_suppressed_goes_back_to_its_birth() -> None:
    study = make_study(n_generations=2, n_elites=4, n_offspring=0)
    everyone = train(study, 8, diversity=Everything(), cohort_size=4)
    for generation in range(2):
        cohort = [one for one in everyone if one.reference.generation == generation]
        moved = [one for one in cohort if one.fitness != one.birth_fitness]
        assert len(moved) == 1
        assert moved[0].fitness == min(one.fitness_or_inf for one in cohort)
    first, second = everyone[:4], everyone[4:]
    by_reference = {one.reference: one for one in first}
    for one in second:
        assert one.origin is not None
        assert (one.weights == by_reference[one.origin].weights) == (
            one.fitness == one.birth_fitness
        )


def test_the_optimizer_state_of_a_suppressed_one_is_that_of_its_birth() -> None:
    study = make_study(n_generations=2, n_elites=4, n_offspring=0, resample_probability=0.0)
    everyone = train(study, 8, diversity=Everything(), cohort_size=4)
    population = open_results(study)
    for one in everyone[4:]:
        assert one.origin is not None
        if not one.inherits_optimizer_state or one.fitness != one.birth_fitness:
            continue
        before = population.read_optimizer_state(one.origin)
        after = population.read_optimizer_state(one.reference)
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            assert (bytes(before.payload), before.manifest) == (
                bytes(after.payload),
                after.manifest,
            )


def spread(study: optuna.Study, n_individuals: int = 4) -> float:
    """How far the last generation's weights are from their mean."""
    rows = [
        nn.utils.parameters_to_vector(
            esgd.load_individual(study, trial, MODELS["mlp"][0]()).parameters()
        )
        for trial in study.trials[-n_individuals:]
    ]
    return float(torch.stack(rows).std(0).norm())


def test_coupling_draws_a_population_together() -> None:
    spreads = []
    for diversity in (None, ElasticCoupling(0.01), ElasticCoupling(0.3)):
        # Back-off is hard to please on so few examples: everyone may improve on noise.
        study = make_study(n_epochs=6, n_offspring=0, n_elites=4, n_auditions=1)
        torch.manual_seed(0)
        train(study, 4, diversity=diversity, cohort_size=4, name="mlp", anchor=MODELS["mlp"][0]())
        spreads.append(spread(study))
    assert spreads[2] < spreads[1] < spreads[0]


@pytest.mark.parametrize("diversity", ["suppression", "coupling"])
def test_diversity_of_one_is_refused_and_leaves_no_population(diversity: str) -> None:
    study = make_study()
    with pytest.raises(ConfigurationError, match="cohort_size is 1"):
        train(study, 1, diversity=diversity, cohort_size=1)
    assert len(train(study, 4, cohort_size=2)) >= 4


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"mutation": "metropolis"}, "mutation is None in the study"),
        ({"diversity": ElasticCoupling(0.2)}, r"ElasticCoupling\(strength=0.2\)' here"),
    ],
)
def test_a_study_remembers_its_operators(
    other: dict[str, Any], words: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/esgd.db"
    train(make_study(storage=url), 1)
    with pytest.raises(ConfigurationError, match=words):
        train(make_study(storage=url), 1, **other)


class OwnTask(esgd.Task):
    def build_model(self) -> nn.Module:
        return nn.Linear(2, 1)

    def train_epoch(self, model: Any, optimizer: Any, epoch: esgd.Epoch) -> None:
        optimizer.zero_grad()
        model.weight.square().sum().backward()
        optimizer.step()

    def fitness(self, model: Any) -> float:
        return float(model.weight.square().sum() + model.bias.square().sum())


def test_own_tasks_take_what_needs_no_gradients() -> None:
    with pytest.raises(ConfigurationError, match=r"needs gradients .* OwnTask keeps to itself"):
        esgd.ESGDTrainer(OwnTask(), mutation="gradient_noise")
    study = make_study()
    trainer = esgd.ESGDTrainer(
        OwnTask(), mutation="metropolis", diversity="coupling", cohort_size=4
    )
    study.optimize(trainer, n_trials=8)
    assert all(math.isfinite(trial.value) for trial in study.trials)
