"""Contract: what a slot ended with is stored exactly."""

from __future__ import annotations

import math

import pytest

from optuna_esgd.engine.individual import SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.testing.base import Contract
from optuna_esgd.testing.examples import example_plan, outcome, take

_FIRST = SlotKey(0, 0, 0)


class OutcomeContract(Contract):
    """Fitness and everything else an individual ends with."""

    def test_outcome_is_stored_exactly(self, population: Population) -> None:
        """What the objective chose stands in place of what was planned."""
        population.commit_plan(example_plan(0))
        claim = population.claim(_FIRST, worker="Ada 🦎", lease_seconds=60)
        assert claim is not None
        chosen = outcome(
            0,
            0.1 + 0.2,
            birth_fitness=1 / 3,
            species="lion",
            hyperparameters={"lr": 5e-324, "warm": None},
            n_back_offs=3,
            n_epochs=4,
            n_gradients=2**40,
            n_forwards=2**41,
            n_evaluations=6,
        )
        assert population.finish(claim, [outcome(1, 2.0), chosen])
        one, other, *rest = population.individuals()
        assert (one.fitness, one.birth_fitness) == (0.1 + 0.2, 1 / 3)
        assert (one.species, dict(one.hyperparameters)) == ("lion", {"lr": 5e-324, "warm": None})
        assert (one.n_back_offs, one.n_epochs) == (3, 4)
        assert (one.n_gradients, one.n_forwards, one.n_evaluations) == (2**40, 2**41, 6)
        assert (one.weights, one.is_stored, one.worker) == (None, False, "Ada 🦎")
        assert (other.species, dict(other.hyperparameters)) == ("sgd", {"lr": 0.1})
        assert other.birth_fitness is None
        assert all(one.fitness is None and one.worker == "" for one in rest)

    @pytest.mark.parametrize("fitness", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_has_diverged(self, population: Population, fitness: float) -> None:
        """NaN and both infinities become inf, the worst there is."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST)
        ended = [outcome(0, fitness, birth_fitness=fitness), outcome(1, 0.0)]
        assert population.finish(claim, ended)
        one, other, *_ = population.individuals()
        assert (one.fitness, one.birth_fitness) == (math.inf, math.inf)
        assert other.fitness == 0.0

    @pytest.mark.parametrize("fitness", [5e-324, -1.7976931348623157e308, 2.0**53 + 2, -0.1])
    def test_fitness_is_stored_to_the_last_bit(
        self, population: Population, fitness: float
    ) -> None:
        """Certificates are compared exactly, so nothing may be rounded."""
        population.commit_plan(example_plan(0))
        assert population.finish(take(population, _FIRST), [outcome(0, fitness), outcome(1)])
        assert population.individuals()[0].fitness == fitness

    def test_numpy_numbers_are_numbers(self, population: Population) -> None:
        """Fitness often comes from NumPy."""
        numpy = pytest.importorskip("numpy")
        population.commit_plan(example_plan(0))
        chosen = {"lr": numpy.float32(0.5), "width": numpy.int64(7), "flag": numpy.bool_(True)}
        ended = [
            outcome(0, numpy.float64(0.1), hyperparameters=chosen, n_epochs=numpy.int64(3)),
            outcome(1, numpy.float32(0.5)),
        ]
        assert population.finish(take(population, _FIRST), ended)
        one, other, *_ = population.individuals()
        assert (one.fitness, other.fitness, one.n_epochs) == (0.1, 0.5, 3)
        assert dict(one.hyperparameters) == {"lr": 0.5, "width": 7, "flag": True}

    def test_born_fitness_of_the_plan_stands(self, population: Population) -> None:
        """An outcome without one does not take it away."""
        population.commit_plan(example_plan(1))
        claim = take(population, SlotKey(1, 0, 0))
        assert population.finish(claim, [outcome(0), outcome(1)])
        assert population.individuals()[0].birth_fitness == 1.0

    @pytest.mark.parametrize("numbers", [[], [0], [0, 1, 2], [0, 0, 1], [2, 3]])
    def test_outcomes_must_be_those_of_the_slot(
        self, population: Population, numbers: list[int]
    ) -> None:
        """One for each individual; then nothing is written and the claim still stands."""
        population.commit_plan(example_plan(0))
        claim = take(population, _FIRST)
        with pytest.raises(ConfigurationError, match=r"\[0, 1\]"):
            population.finish(claim, [outcome(number) for number in numbers])
        assert population.finish(claim, [outcome(0), outcome(1)])
