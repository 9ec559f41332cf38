"""How an individual appears in Optuna: parameters, and flat, sortable attributes of its trial."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna.trial import Trial

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import annealed_range
from optuna_esgd.engine.individual import Individual
from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Range, Space, Value
from optuna_esgd.trainer.faces import OptunaSampler
from optuna_esgd.trainer.task import shown_value


def show_individual(
    trial: Trial,
    individual: Individual,
    sampler: OptunaSampler,
    spaces: Mapping[str, Space],
    configuration: Configuration,
) -> None:
    """Write what the individual was trained with, and how it went, into its trial."""
    sampler.hand_out(trial.number, {"species": individual.species, **individual.hyperparameters})
    try:
        _suggest(trial, "species", Choices(tuple(spaces)))
        for name, range_ in spaces[individual.species].items():
            generation = individual.reference.generation
            _suggest(trial, name, annealed_range(configuration, generation, name, range_))
    finally:
        sampler.take_back(trial.number)
    for name, value in attributes(individual, configuration).items():
        trial.set_user_attr(name, value)


def attributes(individual: Individual, configuration: Configuration) -> dict[str, Value]:
    """The trial's user attributes; numbers are sortable axes in the dashboard, texts columns."""
    shown: dict[str, Value] = {
        "generation": individual.reference.generation,
        "individual": individual.reference.number,
        "birth": individual.birth,
        "parents": " ".join(str(parent) for parent in individual.parents),
        "back_offs": individual.n_back_offs,
        "epochs": individual.n_epochs,
        "gradients": individual.n_gradients,
        "worker": individual.worker,
    }
    if individual.birth_fitness is not None and math.isfinite(individual.birth_fitness):
        birth_value = shown_value(individual.birth_fitness, maximize=configuration.maximize)
        shown["value_at_birth"] = birth_value
    return shown


def _suggest(trial: Trial, name: str, range_: Range) -> None:
    """Suggest over a range through Optuna's own API, so that the database shows it."""
    match range_:
        case Choices(values):
            trial.suggest_categorical(name, values)
        case FloatRange(low, high, scale, step):
            # Optuna knows no grid on a log scale; the values are on it all the same.
            trial.suggest_float(name, low, high, log=scale == "log" and not step, step=step)
        case IntRange(low, high, scale, step):
            trial.suggest_int(name, low, high, log=scale == "log" and step == 1, step=step)
