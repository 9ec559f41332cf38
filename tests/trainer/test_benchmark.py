"""A benchmark: its budget, its recipe, and the test set that is kept apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.errors import ConfigurationError


def make_task() -> esgd.SupervisedTask:
    inputs = torch.linspace(-1, 1, 12)[:, None]
    return esgd.SupervisedTask(
        model=lambda: nn.Linear(1, 1),
        loss=nn.functional.mse_loss,
        train=(inputs, 2 * inputs),
        validation=(inputs, 2 * inputs),
        batch_size=4,
    )


def make_benchmark(task: esgd.SupervisedTask) -> esgd.Benchmark:
    inputs = torch.ones(6, 1)
    return esgd.Benchmark(
        task=task,
        test=esgd.HeldOut(task, (inputs, 3 * inputs)),
        recipe=esgd.Recipe(optimizer=torch.optim.SGD, settings={"lr": 0.1}),
        species=["Adam"],
        population_size=6,
        n_epochs=3,
        n_generations=5,
    )


def test_a_metric_that_is_better_high_is_refused() -> None:
    """All methods minimise."""
    task = make_task()
    task.metric = torch.nn.functional.mse_loss
    make_benchmark(task)

    def accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs == targets).float().mean()

    task.metric = accuracy
    with pytest.raises(ConfigurationError, match="accuracy is better the higher it is"):
        make_benchmark(task)


def test_the_budget_adds_up() -> None:
    benchmark = make_benchmark(make_task())
    assert benchmark.n_trials == 30
    assert benchmark.n_epochs_each == 15


def test_the_trainer_trains_the_task_with_the_species() -> None:
    task = make_task()
    trainer = make_benchmark(task).trainer()
    assert trainer.task is task
    assert list(trainer.species) == ["Adam"]


def test_what_is_held_out_is_scored_with_the_loss_unless_told_otherwise() -> None:
    task = make_task()
    model = nn.Linear(1, 1)
    nn.init.constant_(model.weight, 1.0)
    nn.init.constant_(model.bias, 0.0)
    assert make_benchmark(task).test(model) == {"loss": pytest.approx(4.0)}
    inputs = torch.ones(6, 1)
    metrics = {"absolute": nn.functional.l1_loss, "squared": nn.functional.mse_loss}
    scores = esgd.HeldOut(task, (inputs, 3 * inputs), metrics)(model)
    assert list(scores.items()) == [
        ("absolute", pytest.approx(2.0)),
        ("squared", pytest.approx(4.0)),
    ]


def test_a_cosine_recipe_falls_from_its_rate_towards_zero() -> None:
    recipe = esgd.Recipe(optimizer=torch.optim.Adam, settings={"lr": 0.2, "eps": 1e-6})
    optimizer, schedule = recipe.prepare(nn.Linear(1, 1), 4)
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.param_groups[0]["eps"] == 1e-6
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.1 * (1 + math.cos(math.pi * k / 4)) for k in range(4)])


def test_a_constant_recipe_keeps_its_rate() -> None:
    recipe = esgd.Recipe(optimizer=torch.optim.SGD, settings={"lr": 0.2}, schedule="constant")
    optimizer, schedule = recipe.prepare(nn.Linear(1, 1), 3)
    for _ in range(3):
        assert optimizer.param_groups[0]["lr"] == 0.2
        optimizer.step()
        schedule.step()


def test_a_recipe_of_no_epochs_is_refused() -> None:
    recipe = esgd.Recipe(optimizer=torch.optim.SGD, settings={"lr": 0.2})
    with pytest.raises(ConfigurationError, match="n_epochs must be at least 1, got 0"):
        recipe.prepare(nn.Linear(1, 1), 0)


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ((1, 2), "examples of HeldOut must hold tensors or arrays, got int"),
        (torch.ones(6, 1), r"must be \(inputs, targets\), a Dataset or a DataLoader, got Tensor"),
        ((torch.ones(6, 1), torch.ones(5)), "has 6 inputs but 5 targets"),
    ],
)
def test_what_cannot_be_held_out_is_refused_at_once(examples: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        esgd.HeldOut(make_task(), examples)


def test_what_is_held_out_is_for_a_supervised_task() -> None:
    inputs = torch.ones(6, 1)
    with pytest.raises(ConfigurationError, match="needs a SupervisedTask, got function"):
        esgd.HeldOut(make_task, (inputs, inputs))  # type: ignore[arg-type]
