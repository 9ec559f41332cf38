from __future__ import annotations

import pytest

from optuna_esgd.evolution.annealing import mutation_scale


def test_first_generation_mutates_by_the_initial_scale() -> None:
    assert mutation_scale(0.01, 0) == 0.01


@pytest.mark.parametrize("generation", [1, 2, 9])
def test_shrinks_as_one_over_k(generation: int) -> None:
    assert mutation_scale(0.01, generation) == pytest.approx(0.01 / (generation + 1))
