"""What is searched for an individual: its species' hyperparameters and the task's own."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import Choices, IntRange, Range, Space, Value
from optuna_esgd.species.base import Species
from optuna_esgd.trainer.guidance import described
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import Task


def join_spaces(species: Mapping[str, Species], task: Task) -> dict[str, Space]:
    """Species name -> parameter name -> range, the task's parameters in every species.

    Raises:
        ConfigurationError: A parameter of the task is called like one of a species, or two species
            search one of a name in ways that Optuna does not take for the same.
    """
    for one in species.values():
        for name in task.space:
            if name in one.space or name == "species":
                raise ConfigurationError(
                    f"The task searches {name!r}, and so does species {one.name!r}. Call the "
                    "task's hyperparameter otherwise."
                )
    first: dict[str, tuple[str, Range]] = {}
    for one in species.values():
        for name, range_ in one.space.items():
            owner, known = first.setdefault(name, (one.name, range_))
            if not _are_alike(known, range_):
                raise ConfigurationError(
                    f"Species {owner!r} searches {name!r} over {_kind(known)}, {one.name!r} over "
                    f"{_kind(range_)}. Optuna sees one parameter: give both the same kind and "
                    "scale, or the same choices."
                )
    return {name: {**one.space, **task.space} for name, one in species.items()}


def _are_alike(one: Range, other: Range) -> bool:
    """Whether Optuna takes them for ranges of one parameter; bounds may differ."""
    if isinstance(one, Choices) and isinstance(other, Choices):
        return one.values == other.values
    return _kind(one) == _kind(other)


def _kind(range_: Range) -> str:
    if isinstance(range_, Choices):
        return f"the choices {range_.values!r}"
    is_whole = isinstance(range_, IntRange)
    # Optuna knows no grid on a log scale, and no scale near 1.
    is_log = range_.scale == "log" and range_.step == (1 if is_whole else None)
    numbers = "whole" if is_whole else "real"
    return f"{numbers} numbers on a {'log' if is_log else 'linear'} scale"


def check_schedule(species: Mapping[str, Species], task: Task) -> None:
    """Try the task's schedule on every species now, not in the first trial.

    Raises:
        ConfigurationError: A species has nothing for the schedule to change.
    """
    schedule = task.schedule if isinstance(task, SupervisedTask) else None
    if schedule is None:
        return
    for one in species.values():
        optimizer = one.build(
            [torch.zeros(1, 1, device="cpu", requires_grad=True)], lowest_values(one)
        )
        try:
            schedule(optimizer, 2)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"The schedule {described(schedule)} cannot be made for species {one.name!r}: "
                f"{error}"
            ) from error


def lowest_values(species: Species) -> dict[str, Value]:
    """The lowest value of each of a species' ranges, and the first choice."""
    return {
        name: range_.values[0] if isinstance(range_, Choices) else range_.low
        for name, range_ in species.space.items()
    }


def of_species(species: Species, hyperparameters: Mapping[str, Value]) -> dict[str, Value]:
    """The hyperparameters that belong to the species, not to the task."""
    return {name: value for name, value in hyperparameters.items() if name in species.space}
