"""Theorem 1 and Corollary 1 of Cui et al. 2018, on whole runs and exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import ExploreSpaces
from optuna_esgd.engine.planning import current_pool
from tests.engine.configurations import configuration, configurations
from tests.engine.fakes import SPACES, FakePopulation, Landscape, Run

landscapes = st.builds(
    Landscape, seed=st.integers(0, 2**32), oddity=st.sampled_from([0.0, 0.2, 0.6, 1.0])
)


def simulate(configuration: Configuration, landscape: Landscape) -> FakePopulation:
    return Run(configuration, ExploreSpaces(configuration, SPACES), landscape).go()


def means_of_best(fitness: Iterable[float | None], n_elites: int) -> tuple[float, ...]:
    """The certificate once more, without NumPy."""
    means, total = [], 0.0
    best = sorted(math.inf if f is None else f for f in fitness)[:n_elites]
    for r, f in enumerate(best, start=1):
        total += f
        means.append(math.inf if f == math.inf else total / r)
    return tuple(means)


def survivors_by_generation(
    population: FakePopulation, configuration: Configuration
) -> list[tuple[float, ...]]:
    """Certificates of the founders at birth, then of the survivors of each generation."""
    m, n_generations = configuration.n_elites, configuration.n_generations
    assert n_generations is not None
    births = [
        means_of_best((one.birth_fitness for one in population.generation(generation)), m)
        for generation in range(n_generations)
    ]
    last = current_pool(population.facts(), configuration)
    return [*births, means_of_best((one.fitness for one in last), m)]


@settings(max_examples=150)
@given(configurations(), landscapes)
def test_the_mean_of_the_r_best_never_gets_worse(
    configuration: Configuration, landscape: Landscape
) -> None:
    population = simulate(configuration, landscape)
    means = survivors_by_generation(population, configuration)
    for before, after in itertools.pairwise(means):
        assert len(before) == len(after) == configuration.n_elites
        for r in range(configuration.n_elites):
            assert after[r] <= before[r], f"the mean of the {r + 1} best got worse"


@settings(max_examples=50)
@given(configurations(selection="truncation", n_offspring=0), landscapes)
def test_with_truncation_the_certificates_hold_too(
    configuration: Configuration, landscape: Landscape
) -> None:
    """The worst give way to copies of the best: no rank of the population gets worse."""
    population = simulate(configuration, landscape)
    for before, after in itertools.pairwise(
        plan.certificate for (generation, _), plan in population.plans.items() if generation
    ):
        assert all(now <= was for was, now in zip(before, after, strict=True))


@settings(max_examples=100)
@given(configurations(), landscapes)
def test_stored_certificates_are_the_recomputed_ones(
    configuration: Configuration, landscape: Landscape
) -> None:
    population = simulate(configuration, landscape)
    for (generation, round_), plan in population.plans.items():
        births = population.generation(generation)
        expected = means_of_best((one.birth_fitness for one in births), configuration.n_elites)
        assert plan.certificate == (expected if generation and not round_ else ())


@settings(max_examples=100)
@given(configurations(), landscapes)
def test_no_sgd_step_ends_worse_than_its_birth(
    configuration: Configuration, landscape: Landscape
) -> None:
    population = simulate(configuration, landscape)
    for reference, one in population.individuals.items():
        assert one.fitness is not None
        assert math.isfinite(one.fitness) or one.fitness == math.inf
        if reference.round == 0:
            assert one.birth_fitness is not None
            assert one.fitness <= one.birth_fitness


def test_a_run_gets_better() -> None:
    """Never worse would hold for a population that stands still."""
    for preset in ("coevolve", "paper"):
        chosen = configuration(preset=preset, n_generations=4)
        means = survivors_by_generation(simulate(chosen, Landscape(0)), chosen)
        assert means[-1][0] < means[0][0]
        assert means[-1][-1] < means[0][-1]
