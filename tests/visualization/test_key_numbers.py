"""The numbers a page shows large."""

from __future__ import annotations

import math

from hypothesis import given

from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.visualization.history import History
from optuna_esgd.visualization.key_numbers import Ancestor, key_numbers
from tests.visualization.histories import NOTHING, histories, history, one
from tests.visualization.test_descent import FAMILY


def test_of_a_family() -> None:
    numbers = key_numbers(FAMILY)
    assert (numbers.n_individuals, numbers.generation) == (9, 2)
    assert (numbers.best_value, numbers.best_trial) == (1.0, 20)
    assert numbers.common_ancestor == Ancestor(0, 1, 1)
    assert numbers.back_off_rate == 0.0


def test_of_nobody() -> None:
    numbers = key_numbers(NOTHING)
    assert numbers.n_individuals == 0
    assert numbers.generation is numbers.best_value is numbers.common_ancestor is None


def test_the_best_may_be_an_offspring() -> None:
    bred = Individual(
        reference=Reference(0, 1, 0), birth="recombination", fitness=-3.0, is_stored=True
    )
    numbers = key_numbers(history(one(0, 0, 1.0), bred, maximize=True))
    assert (numbers.best_value, numbers.best_trial) == (3.0, 0)


def test_all_have_diverged() -> None:
    assert key_numbers(history(one(0, 0, math.inf))).best_value is None


def test_half_a_generation_does_not_make_founders_fewer() -> None:
    apart = [one(0, 0, 1.0), one(0, 1, 1.0), one(1, 0, 1.0, 0), one(1, 1, None, 1)]
    assert key_numbers(history(*apart)).effective_founders == 2.0


def test_back_off_rate_counts_chances() -> None:
    backed = [one(0, 0, 1.0, n_back_offs=1), one(0, 1, 1.0)]
    assert key_numbers(history(*backed, back_off="step")).back_off_rate == 0.25
    assert key_numbers(history(*backed, back_off="best")).back_off_rate == 0.5
    assert key_numbers(history(one(0, 0, 1.0, n_epochs=0))).back_off_rate is None


@given(histories())
def test_of_anybody(read: History) -> None:
    numbers = key_numbers(read)
    assert (numbers.generation is None) == (read.n_individuals == 0)
