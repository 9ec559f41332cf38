"""How an individual appears in Optuna: parameters, and flat, sortable attributes of its trial."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import annealed_range
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.ports import Population
from optuna_esgd.evolution.space import Choices, Range, Space, Value
from optuna_esgd.store.trial_rows import TrialRows
from optuna_esgd.trainer.faces import OptunaSampler
from optuna_esgd.trainer.task import shown_value


def show_individual(
    trial: Trial,
    individual: Individual,
    sampler: OptunaSampler,
    spaces: Mapping[str, Space],
    configuration: Configuration,
    rows: TrialRows | None = None,
) -> None:
    """Write what the individual was trained with, and how it went, into its trial.

    Args:
        trial: Running.
        individual: Whom it shows.
        sampler: The study's.
        spaces: Of all species.
        configuration: The run's settings.
        rows: Writes everything at once; None for one transaction per parameter and attribute.
    """
    if rows is None:
        ranges = _ranges(individual, spaces, configuration)
        sampler.suggest_planned(trial, ranges, _values(individual))
        for name, value in attributes(individual, configuration).items():
            trial.set_user_attr(name, value)
        return
    described = _describe(individual, sampler, spaces, configuration, state=TrialState.RUNNING)
    rows.describe_running(trial._trial_id, described)
    # What Optuna's own methods do besides writing, so that ``trial.params`` answers.
    known = trial._cached_frozen_trial
    known.params |= described.params
    known.distributions |= described.distributions
    known.user_attrs |= described.user_attrs


def show_together(
    rows: TrialRows,
    sampler: OptunaSampler,
    spaces: Mapping[str, Space],
    configuration: Configuration,
) -> int:
    """Make complete trials for all finished individuals that have none, in one transaction."""
    shown: dict[tuple[int, str], dict[str, BaseDistribution]] = {}

    def describe(individual: Individual) -> FrozenTrial:
        key = (individual.reference.generation, individual.species)
        if key not in shown:  # all of a generation and a species share them
            shown[key] = sampler.distributions(_ranges(individual, spaces, configuration))
        return _trial(individual, shown[key], configuration, state=TrialState.COMPLETE)

    return rows.show_finished(describe)


def show_in_new_trial(
    study: optuna.Study,
    population: Population,
    individual: Individual,
    sampler: OptunaSampler,
    spaces: Mapping[str, Space],
    configuration: Configuration,
) -> None:
    """Make a trial that shows a finished individual through Optuna's API: three commits in all.

    The trial is running until it is bound to the individual, so that each individual has one
    complete trial, wherever a worker dies: a running trial that nobody ends is failed later.
    """
    template = _describe(individual, sampler, spaces, configuration, state=TrialState.RUNNING)
    storage = study._storage
    trial_id = storage.create_new_trial(study._study_id, template_trial=template)
    trial_number = storage.get_trial_number_from_id(trial_id)
    if not population.bind_trial(individual.reference, trial_number):
        reason = "Another trial shows its individual."
        sampler.running_trials.fail(Trial(study, trial_id), reason)
        return
    value = shown_value(individual.fitness_or_inf, maximize=configuration.maximize)
    with contextlib.suppress(UpdateFinishedTrialError):  # this worker was given up: others will
        storage.set_trial_state_values(trial_id, state=TrialState.COMPLETE, values=(value,))


def _describe(
    individual: Individual,
    sampler: OptunaSampler,
    spaces: Mapping[str, Space],
    configuration: Configuration,
    *,
    state: TrialState,
) -> FrozenTrial:
    distributions = sampler.distributions(_ranges(individual, spaces, configuration))
    return _trial(individual, distributions, configuration, state=state)


def _trial(
    individual: Individual,
    distributions: Mapping[str, BaseDistribution],
    configuration: Configuration,
    *,
    state: TrialState,
) -> FrozenTrial:
    """A trial that says everything of an individual, and its value if it is complete."""
    value = shown_value(individual.fitness_or_inf, maximize=configuration.maximize)
    return create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        params=_values(individual),
        distributions=dict(distributions),
        user_attrs=attributes(individual, configuration),
    )


def _ranges(
    individual: Individual, spaces: Mapping[str, Space], configuration: Configuration
) -> dict[str, Range]:
    """The ranges that an individual's values come from, the species among them."""
    generation = individual.reference.generation
    space = spaces[individual.species]
    return {
        "species": Choices(tuple(spaces)),
        **{
            name: annealed_range(configuration, generation, name, range_)
            for name, range_ in space.items()
        },
    }


def _values(individual: Individual) -> dict[str, Value]:
    return {"species": individual.species, **individual.hyperparameters}


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
        "forwards": individual.n_forwards,
        "worker": individual.worker,
    }
    if individual.birth_fitness is not None and math.isfinite(individual.birth_fitness):
        birth_value = shown_value(individual.birth_fitness, maximize=configuration.maximize)
        shown["value_at_birth"] = birth_value
    return shown


def replace_trial(trial: Trial, sampler: OptunaSampler, reason: str) -> None:
    """Fail a trial whose lease was lost, and go on with a new one in its place.

    ``study.optimize`` has no other way to survive it: it tells the trial it was given at the end,
    and Optuna refuses to tell a trial twice.
    """
    sampler.running_trials.fail(trial, reason)
    study = trial.study
    Trial.__init__(trial, study, study._storage.create_new_trial(study._study_id))
