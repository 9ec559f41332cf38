from __future__ import annotations

import math

import pytest

from optuna_esgd.evolution.annealing import mutation_scale, rate_factor


def test_first_generation_mutates_by_the_initial_scale() -> None:
    assert mutation_scale(0.01, 0) == 0.01


@pytest.mark.parametrize("generation", [1, 2, 9])
def test_shrinks_as_one_over_k(generation: int) -> None:
    assert mutation_scale(0.01, generation) == pytest.approx(0.01 / (generation + 1))


def test_a_constant_rate_is_left_as_it_is() -> None:
    assert {rate_factor("constant", epoch, 4) for epoch in range(4)} == {1.0}


def test_rates_fall_along_half_a_cosine_and_never_to_nothing() -> None:
    factors = [rate_factor("cosine", epoch, 4) for epoch in range(4)]
    half = math.sqrt(0.5)
    assert factors == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2])
    assert rate_factor("cosine", 0, 1) == 1.0
