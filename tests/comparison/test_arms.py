"""What all arms keep to, and what tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.comparison.arms import (
    ARMS,
    check_arms,
    epochs_at_cost,
    run_arm,
    settings_of_arm,
)
from optuna_esgd.comparison.populations import POPULATIONS, settings_of
from optuna_esgd.comparison.runs import Run, total_cost
from optuna_esgd.engine.configuration import Settings
from optuna_esgd.errors import ConfigurationError
from tests.comparison.benchmarks import N_BATCHES, build

# Fitness evaluations of 3 individuals with 4 epochs each: births, epochs or steps (and their
# means; esgd's steps are of 2 epochs, whose mean is one more), offspring.
N_EVALUATIONS = {
    # The mean of the step: of the second epoch, but for founders, whose auditions have one.
    "esgd": 3 + 2 * 3 * 4 + 3 + 2 * 12,
    "unaveraged": 3 + 3 * 4 + 2 * 12,
    "paper": 3 + 3 * 4 + 4 * 12,
    "baseline": 3 + 3 * 4,
    "pbt": 3 + 3 * 2,
    "random": 3 + 3 * 4,
    "single": 3 + 3 * 4,
}


@pytest.mark.parametrize("arm", ARMS)
def test_all_arms_spend_the_same_gradients_on_the_same_record(arm: str) -> None:
    benchmark = build()
    run = run_arm(arm, benchmark, seed=0, n_epochs=4)
    assert (run.arm, run.seed, run.n_epochs) == (arm, 0, 4)
    assert run.n_gradients == benchmark.population_size * 4 * N_BATCHES
    assert run.n_forwards == 0
    assert run.n_evaluations == N_EVALUATIONS.get(arm, run.n_evaluations)
    # 6 validation examples are 2 mini-batches of 4
    assert run.cost == 3 * run.n_gradients + 2 * run.n_evaluations
    assert list(run.test) == ["squared", "absolute"]
    assert run.validation < 4.5  # of somebody who guesses 0: about 2 squared


@pytest.mark.parametrize("arm", POPULATIONS)
def test_an_arm_is_recorded_with_the_settings_it_trains_with(arm: str) -> None:
    benchmark = replace(build(), n_epochs=4)
    settings = Settings(**settings_of(arm, benchmark, n_epochs=4))
    several = {"species 'SGD'": "SGD()", "species 'Adam'": "Adam()"}
    trained = settings.configure(seed=0, cohort_size=None, maximize=False, described=several)
    record = settings_of_arm(arm)
    assert record == {name: getattr(trained, name) for name in record}
    of_task = {"seed", "population_size", "n_elites", "n_epochs", "n_generations", "n_offspring"}
    assert ("rate_schedule" in record) == (arm != "single")  # that of its recipe
    assert of_task & record.keys() == of_task & POPULATIONS[arm].keys()
    assert record["average_steps"] == record["average_iterates"] == (arm == "esgd")


@pytest.mark.parametrize("arm", ARMS)
def test_a_seed_gives_the_same_run_twice(arm: str) -> None:
    first, second, other = (run_arm(arm, build(), seed=seed, n_epochs=2) for seed in (1, 1, 2))
    assert first == replace(second, seconds=first.seconds)
    assert first.validation != other.validation


@pytest.mark.parametrize("arm", ARMS)
def test_the_chosen_model_has_the_fitness_it_was_chosen_for(arm: str) -> None:
    benchmark = build()
    outcome = ARMS[arm](benchmark, n_epochs=2, seed=3)
    with torch.no_grad():
        assert benchmark.task.fitness(outcome.model.eval()) == pytest.approx(outcome.validation)


@pytest.mark.parametrize("arm", ARMS)
def test_the_test_set_is_touched_once(arm: str) -> None:
    asked: list[nn.Module] = []

    def test(model: nn.Module) -> Mapping[str, float]:
        asked.append(model)
        assert not model.training
        return {"loss": 1.0}

    assert run_arm(arm, replace(build(), test=test), seed=0, n_epochs=2).test == {"loss": 1.0}
    assert len(asked) == 1


def test_hyperband_stops_networks_early() -> None:
    benchmark = replace(build(), population_size=6)
    outcome = ARMS["tpe"](benchmark, n_epochs=9, seed=0)
    n_births = outcome.n_evaluations - 6 * 9
    assert n_births > 6  # more networks than would fit if each had all epochs


def test_the_reference_comes_first_and_names_are_checked() -> None:
    assert check_arms(["pbt", "esgd", "pbt"]) == ["esgd", "pbt"]
    with pytest.raises(ConfigurationError, match=r"Arms must be some of esgd, .* got 'sgd'"):
        check_arms(["pbt", "sgd"])


def run(arm: str, n_epochs: int, cost: int) -> Run:
    counts = {"n_gradients": 0, "n_forwards": 0, "n_evaluations": 0}
    return Run(
        arm=arm, seed=0, n_epochs=n_epochs, validation=0, test={}, cost=cost, seconds=0, **counts
    )


@given(
    st.sampled_from(sorted(ARMS)), st.integers(1, 50), st.integers(1, 10**6), st.integers(1, 10**6)
)
def test_equal_cost_is_missed_by_less_than_one_step(
    arm: str, n_steps: int, before: int, cost: int
) -> None:
    step = 2 if arm in ("esgd", "unaveraged", "pbt") else 1
    n_epochs = epochs_at_cost(run(arm, n_steps * step, before), build(), cost)
    assert n_epochs % step == 0
    per_epoch = before / (n_steps * step)
    assert n_epochs == step or n_epochs * per_epoch <= cost * (1 + 1e-9)
    assert (n_epochs + step) * per_epoch > cost * (1 - 1e-9)


def test_what_a_task_of_ones_own_evaluates_counts_as_one_forward_pass() -> None:
    class Own(esgd.Task):
        def build_model(self) -> nn.Module: ...
        def train_epoch(self, model, optimizer, epoch): ...  # type: ignore[no-untyped-def]
        def fitness(self, model: nn.Module) -> float: ...

    assert total_cost(Own(), n_gradients=10, n_forwards=5, n_evaluations=2) == 37


def test_population_based_training_neither_breeds_nor_backs_off() -> None:
    settings = esgd.ESGDSampler(4, **POPULATIONS["pbt"]).settings
    configuration = settings.configure(seed=0, cohort_size=None, maximize=False)
    assert configuration.n_offspring == 0
    assert (configuration.selection, configuration.back_off) == ("truncation", "none")
