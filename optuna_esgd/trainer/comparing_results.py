"""What a population can be used as: its best, its soups, its ensemble, and what each costs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import optuna
import torch
from torch import nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.combining import (
    Combined,
    Kitchen,
    ensemble,
    greedy_soup,
    uniform_soup,
)
from optuna_esgd.trainer.held_out import Test, ask_test
from optuna_esgd.trainer.task import Task

# Latency is measured until there are so many rounds, or, after a few, so many seconds have passed.
_FEWEST_ROUNDS, _MOST_ROUNDS, _MOST_SECONDS = 3, 31, 10.0


class Cost(NamedTuple):
    """What a model costs at inference.

    Attributes:
        n_forwards: Forward passes of networks per example.
        n_bytes: Of its parameters and buffers.
        relative_seconds: Time of a pass over the validation data, in that of the single best:
            the ratio of medians over interleaved rounds, on this machine's CPU.
    """

    n_forwards: int
    n_bytes: int
    relative_seconds: float


class Result(NamedTuple):
    """One way to use a population.

    Attributes:
        name: ``"best"``, ``"uniform soup"``, ``"greedy soup"`` or ``"ensemble"``.
        model: A module, with a ``state_dict`` like any other.
        n_members: How many individuals are in it.
        value: Fitness on the validation data, in the study's direction.
        test: What ``test`` said of it, by name; empty without one.
        cost: At inference.
        is_chosen: Whether it validates best; of equals, the first in the list.
    """

    name: str
    model: nn.Module
    n_members: int
    value: float
    test: Mapping[str, float]
    cost: Cost
    is_chosen: bool


def compare_results(
    study: optuna.Study,
    task: Task,
    *,
    test: Test | None = None,
    store: str | None = None,
) -> list[Result]:
    """Compare the single best with the soups and the ensemble of the last population.

    One of them is chosen by validation data alone. The test data is asked once of each, and only
    reported: choosing by it would make it validation data.

    Args:
        study: A study trained by ESGD.
        task: What it was trained on.
        test: Scores of a model on data that took no part, by name, such as ``esgd.HeldOut``.
        store: Where weights are, if not in the study's database.

    Returns:
        The best, the uniform soup, the greedy soup and the ensemble.

    Raises:
        StudyError: The study has no population.
        WeightsNotFoundError: No generation is complete yet.
        TaskError: ``test`` returns something else than numbers by name.
    """
    if test is not None and not callable(test):
        raise ConfigurationError(
            f"test must be a function of a model, such as "
            f"esgd.HeldOut(task, examples), got {type(test).__name__}."
        )
    kitchen = Kitchen(study, task, store)
    made = {
        "best": kitchen.serve(kitchen.read(kitchen.from_the_best[0]), 1),
        "uniform soup": uniform_soup(study, task, store=store),
        "greedy soup": greedy_soup(study, task, store=store),
        "ensemble": ensemble(study, task, store=store),
    }
    chosen = "best"
    for name, one in made.items():
        if not kitchen.is_as_good(made[chosen], one):
            chosen = name
    seconds = _seconds(task, [one.model for one in made.values()])
    return [
        _result(name, one, test, spent / seconds[0], is_chosen=name == chosen)
        for (name, one), spent in zip(made.items(), seconds, strict=True)
    ]


def _result(
    name: str,
    combined: Combined,
    test: Test | None,
    relative_seconds: float,
    *,
    is_chosen: bool,
) -> Result:
    model, value, n_members = combined
    tensors = [*model.parameters(), *model.buffers()]
    return Result(
        name=name,
        model=model,
        n_members=n_members,
        value=value,
        test={} if test is None else ask_test(test, model),
        cost=Cost(
            n_forwards=n_members if name == "ensemble" else 1,
            n_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            relative_seconds=relative_seconds,
        ),
        is_chosen=is_chosen,
    )


@torch.no_grad()
def _seconds(task: Task, models: Sequence[nn.Module]) -> list[float]:
    """Median seconds of a pass of each model over the validation data; rounds are interleaved."""
    measured: list[list[float]] = [[] for _ in models]
    began = time.perf_counter()
    for number in range(1 + _MOST_ROUNDS):
        if number > _FEWEST_ROUNDS and time.perf_counter() - began > _MOST_SECONDS:
            break
        for model, seconds in zip(models, measured, strict=True):
            before = time.perf_counter()
            task.fitness(model)
            seconds.append(time.perf_counter() - before)
    return [statistics.median(seconds[1:]) for seconds in measured]  # the first round warms up
