"""Studies whose populations are made by the real engine and a toy instead of training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import optuna

from optuna_esgd.engine.actions import Commit, Evaluate, Train
from optuna_esgd.engine.configuration import Configuration, Settings
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.explore import ExploreSpaces
from optuna_esgd.engine.individual import Individual, Reference, Slot
from optuna_esgd.engine.ports import Population
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.evolution.space import Choices, FloatRange, Space
from optuna_esgd.store.opening import open_population
from optuna_esgd.testing.examples import example_snapshot
from optuna_esgd.visualization.history import History, read_history

optuna.logging.set_verbosity(optuna.logging.ERROR)

LR = FloatRange(1e-4, 1.0, "log")
SPACES: Mapping[str, Space] = {
    "Adam": {"lr": LR, "beta": FloatRange(0.8, 0.99)},
    "RMSprop": {"lr": LR, "momentum": FloatRange(0.0, 0.9), "centered": Choices((False, True))},
    "SGD": {"lr": LR, "momentum": FloatRange(0.0, 0.99), "schedule": Choices(("cosine", None))},
}


def toy_study(
    population_size: int = 6,
    n_generations: int = 4,
    *,
    n_finished: int | None = None,
    spaces: Mapping[str, Space] = SPACES,
    direction: str = "minimize",
    storage: Any = None,
    name: str = "toy",
    n_trials: int | None = None,
    cohort_size: int = 2,
    **settings: Any,
) -> optuna.Study:
    """A study whose population has lived for some generations.

    Args:
        n_finished: Stop when so many individuals have trained, in the middle of a generation.
        n_trials: How many individuals get a trial; all that have trained if None.
    """
    study = optuna.create_study(
        direction=direction, storage=storage, study_name=name, load_if_exists=True
    )
    numbers = {"seed": 3, "n_generations": n_generations, "n_offspring": 2 * population_size}
    population, configuration = open_population(
        study,
        Settings(population_size=population_size, **{**numbers, **settings}),
        cohort_size=cohort_size,
    )
    explore = ExploreSpaces(configuration, spaces)
    n_trained = 0
    while n_finished is None or n_trained < n_finished:
        match decide(population.facts(), configuration, explore):
            case Commit(plan):
                population.commit_plan(plan)
            case Train(slots) | Evaluate(slots):
                everyone = {
                    one.reference: one
                    for one in population.individuals(generation=slots[0].key.generation)
                }
                for slot in slots[: 1 if n_finished is not None else None]:
                    n_trained += _work(population, configuration, slot, everyone)
            case _:
                break
    for number in itertools.count():
        if number == n_trials or population.assign_trial(number) is None:
            return study
    return study


def toy_history(*arguments: Any, **options: Any) -> History:
    return read_history(toy_study(*arguments, **options))


def _work(
    population: Population,
    configuration: Configuration,
    slot: Slot,
    everyone: Mapping[Reference, Individual],
) -> int:
    """Train or score one slot; how many trained."""
    generation, round_, cohort = slot.key
    worker = f"host:{cohort % 3}"
    claim = population.claim(slot.key, worker=worker, lease_seconds=600)
    assert claim is not None
    references = [Reference(generation, round_, number) for number in slot.numbers]
    step = _train if round_ == 0 else _score
    ended = [step(configuration, everyone[one], everyone) for one in references]
    assert population.finish(claim, ended)
    return 0 if round_ else len(ended)


def _train(
    configuration: Configuration, one: Individual, everyone: Mapping[Reference, Individual]
) -> Outcome:
    """Gain the more, the nearer the learning rate is to one that falls over the generations."""
    del everyone
    rng = stream(configuration.seed, *one.reference, "toy")
    lr = float(one.hyperparameters.get("lr", 0.01) or 0.01)
    ideal = -1.0 - 0.08 * one.reference.generation
    gain = 0.3 * math.exp(-abs(math.log10(lr) - ideal)) + 0.05 * float(rng.normal())
    born = 2 + float(rng.random()) if one.birth_fitness is None else one.birth_fitness
    if one.birth_fitness is None and rng.random() < 0.1:
        return Outcome(number=one.reference.number, fitness=math.inf, birth_fitness=math.inf)
    backs_off = gain <= 0
    return Outcome(
        number=one.reference.number,
        fitness=born if backs_off else born * (1 - gain),
        birth_fitness=born if one.birth_fitness is None else None,
        n_back_offs=int(backs_off),
        n_epochs=configuration.n_epochs,
        weights=example_snapshot(one.reference, 8),
    )


def _score(
    configuration: Configuration, one: Individual, everyone: Mapping[Reference, Individual]
) -> Outcome:
    """About as good as the parents."""
    rng = stream(configuration.seed, *one.reference, "toy")
    parents = [everyone[parent].fitness_or_inf for parent in one.parents]
    fitness = sum(parents) / len(parents) * math.exp(0.1 * float(rng.normal()))
    return Outcome(number=one.reference.number, fitness=fitness)
