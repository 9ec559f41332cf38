from __future__ import annotations

import copy
import importlib.util
import itertools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    PartialFixedSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from optuna_esgd import ESGDSampler
from optuna_esgd.engine.configuration import Configuration, Settings
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Space, Value, contains
from optuna_esgd.sampler.proposals import ExploreSampler, ranked_improvements

SPACES: Mapping[str, Space] = {
    "sgd": {
        "lr": FloatRange(1e-4, 1.0, "log"),
        "momentum": FloatRange(0.0, 0.999, "one_minus"),
        "nesterov": Choices((True, False)),
    },
    "adam": {
        "lr": FloatRange(1e-5, 1e-1, "log"),
        "batch_size": IntRange(16, 256, "log"),
        "clip": FloatRange(0.5, 2.0, step=0.25),
        "schedule": Choices((None, "cosine")),
    },
}
ONE_SPECIES: Mapping[str, Space] = {"sgd": {"lr": FloatRange(1e-4, 1.0, "log")}}

SAMPLERS: dict[str, Callable[[], BaseSampler]] = {
    "random": RandomSampler,
    "tpe": lambda: TPESampler(n_startup_trials=5),
    "tpe, univariate": lambda: TPESampler(n_startup_trials=5, multivariate=False),
    "nsga2": lambda: NSGAIISampler(population_size=8),
    "nsga3": lambda: NSGAIIISampler(population_size=8),
    "gp": lambda: GPSampler(n_startup_trials=6),
    "qmc": lambda: QMCSampler(scramble=True, warn_asynchronous_seeding=False),
    "esgd": lambda: ESGDSampler(4, seed=0),
    "brute force": BruteForceSampler,
    "partial": lambda: PartialFixedSampler({"sgd.momentum": 0.1}, TPESampler(n_startup_trials=5)),
    "cma-es": CmaEsSampler,
}


def configure(**settings: Any) -> Configuration:
    return Settings(**{"population_size": 6, "explore": "sampler"} | settings).configure(
        seed=7, cohort_size=None, maximize=False
    )


def births(generation: int, n: int = 6) -> list[Individual]:
    return [Individual(reference=Reference(generation, 0, i), birth="elite") for i in range(n)]


def finish(one: Individual, species: str, values: Mapping[str, Value], gain: float) -> Individual:
    return Individual(
        reference=one.reference,
        birth="elite",
        species=species,
        hyperparameters=values,
        birth_fitness=1.0,
        fitness=1.0 - gain,
    )


def grow(
    make: Callable[[], BaseSampler],
    spaces: Mapping[str, Space],
    gain: Callable[[str, Mapping[str, Value]], float],
    *,
    n_generations: int,
    n: int = 6,
    **settings: Any,
) -> list[Individual]:
    """Explore with a sampler that is made anew in each generation, as by another worker."""
    past: list[Individual] = []
    for generation in range(n_generations):
        explore = ExploreSampler(configure(**settings), spaces, make(), past.copy)
        born = births(generation, n)
        chosen = explore(born, {})
        past += [
            finish(one, species, values, gain(species, values))
            for one, (species, values) in zip(born, chosen, strict=True)
        ]
    return past


def no_gain(species: str, values: Mapping[str, Value]) -> float:
    return 0.0


def by_learning_rate(species: str, values: Mapping[str, Value]) -> float:
    return -abs(math.log10(float(str(values["lr"]))) + 2)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name == "gp" else ()) for name in SAMPLERS],
)
def test_proposals_are_values_of_the_space_and_depend_on_nothing_else(name: str) -> None:
    if name == "cma-es" and importlib.util.find_spec("cmaes") is None:
        pytest.skip("cmaes is not installed")
    spaces = SPACES
    if name == "brute force":  # knows grids only
        spaces = {"sgd": {"nesterov": Choices((True, False)), "depth": IntRange(1, 9)}}
    runs = []
    for _ in range(2):
        np.random.seed()
        gain = by_learning_rate if "lr" in spaces["sgd"] else no_gain
        n_generations = 2 if name == "gp" else 4  # seconds per proposal
        runs.append(grow(SAMPLERS[name], spaces, gain, n_generations=n_generations))
    assert runs[0] == runs[1]
    for one in runs[0]:
        assert one.hyperparameters.keys() == spaces[one.species].keys()
        for parameter, range_ in spaces[one.species].items():
            assert contains(range_, one.hyperparameters[parameter]), parameter
    assert len({str(one.hyperparameters) for one in runs[0]}) > 9


@pytest.mark.parametrize("name", ["tpe", "nsga2", "esgd"])
def test_samplers_learn_which_hyperparameters_improve(name: str) -> None:
    spaces = {"adam": SPACES["adam"]}
    past = grow(SAMPLERS[name], spaces, by_learning_rate, n_generations=12, n=8)
    gains = [by_learning_rate("", one.hyperparameters) for one in past]
    assert np.mean(gains[-24:]) > np.mean(gains[:24]) + 0.2


def test_species_that_improve_more_are_proposed_more() -> None:
    past = grow(
        SAMPLERS["tpe"],
        SPACES,
        lambda species, _: float(species == "adam"),
        n_generations=8,
    )
    assert [one.species for one in past[-12:]].count("adam") >= 9


def test_plans_for_different_places_differ() -> None:
    """Asynchronously every place is planned for by itself; their first proposals are no copies."""
    explore = ExploreSampler(configure(), SPACES, TPESampler(), list)
    proposed = [explore([one], {}) for one in births(1)]
    assert all(one != other for one, other in itertools.combinations(proposed, 2))


def test_generations_and_seeds_differ() -> None:
    def explore(seed: int, generation: int) -> object:
        configuration = configure(seed=seed)
        return ExploreSampler(configuration, SPACES, RandomSampler(), list)(births(generation), {})

    assert explore(1, 0) == explore(1, 0)
    assert explore(1, 0) != explore(2, 0)
    assert explore(1, 0) != explore(1, 1)


def test_the_sampler_itself_is_never_changed() -> None:
    sampler = TPESampler(seed=3)
    before = copy.deepcopy(sampler)._rng.rng.get_state()[1]
    ExploreSampler(configure(), SPACES, sampler, list)(births(0), {})
    assert (sampler._rng.rng.get_state()[1] == before).all()


def test_later_individuals_change_nothing() -> None:
    past = grow(SAMPLERS["tpe"], SPACES, by_learning_rate, n_generations=4)
    explore = ExploreSampler(configure(), SPACES, SAMPLERS["tpe"](), lambda: past[::-1])
    again = explore(births(2), {})
    assert again == [(one.species, one.hyperparameters) for one in past[12:18]]


def test_learning_rates_are_annealed() -> None:
    settings = {"learning_rate_decay": 0.5}
    past = grow(SAMPLERS["tpe"], ONE_SPECIES, no_gain, n_generations=6, **settings)
    for one in past:
        decay = 0.5**one.reference.generation
        assert 1e-4 * decay <= float(str(one.hyperparameters["lr"])) <= decay


def test_values_near_one_are_proposed_on_their_own_scale() -> None:
    spaces: Mapping[str, Space] = {"sgd": {"beta": FloatRange(0.0, 0.9999, "one_minus")}}
    past = grow(RandomSampler, spaces, no_gain, n_generations=20)
    assert np.median([float(str(one.hyperparameters["beta"])) for one in past]) > 0.95


def test_individuals_of_other_spaces_are_passed_over() -> None:
    strangers = [
        finish(births(0)[0], "rmsprop", {"lr": 0.1}, 1.0),
        finish(births(0)[1], "sgd", {}, 1.0),
        finish(births(0)[2], "sgd", {"lr": 30.0}, 1.0),
        finish(births(0)[3], "sgd", {"lr": "high"}, 1.0),
        Individual(reference=Reference(0, 0, 4), birth="founder"),
    ]
    explore = ExploreSampler(configure(), ONE_SPECIES, RandomSampler(), lambda: strangers)
    empty = ExploreSampler(configure(), ONE_SPECIES, RandomSampler(), list)
    assert explore(births(1), {}) == empty(births(1), {})
    assert explore([], {}) == []


def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    optuna.logging.enable_propagation()
    optuna.logging.set_verbosity(logging.DEBUG)
    try:
        with caplog.at_level(logging.DEBUG):
            grow(SAMPLERS["gp"], SPACES, by_learning_rate, n_generations=3)
            optuna.create_study(study_name="somebody else's")
    finally:
        optuna.logging.disable_propagation()
    messages = {record.getMessage() for record in caplog.records}
    assert messages == {"A new study created in memory with name: somebody else's"}


def test_improvements_compare_within_a_generation() -> None:
    def individual(generation: int, birth: float | None, end: float | None) -> Individual:
        return Individual(
            reference=Reference(generation, 0, 0), birth="elite", birth_fitness=birth, fitness=end
        )

    past: Sequence[Individual] = [
        individual(0, 10.0, 0.0),
        individual(0, 10.0, 5.0),
        individual(0, math.inf, 5.0),
        individual(0, math.inf, math.inf),
        individual(0, 5.0, math.inf),
        individual(0, None, 1.0),
        individual(0, 1.0, None),
        individual(1, 1.0, 0.9),
        individual(1, 1.0, 1.0),
        individual(1, 2.0, 2.0),
        individual(1, -1.0, -1.5),
    ]
    ranked = ranked_improvements(past)
    assert [one for one, _ in ranked] == [past[i] for i in (0, 1, 7, 8, 9, 10)]
    assert [rank for _, rank in ranked] == [0.75, 0.25, 0.625, 0.25, 0.25, 0.875]
