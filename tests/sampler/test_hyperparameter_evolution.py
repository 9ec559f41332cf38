from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from optuna_esgd.engine.configuration import Configuration, Settings
from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Range, Value
from optuna_esgd.sampler.finished_trials import Candidates, FinishedTrial
from optuna_esgd.sampler.hyperparameter_evolution import Founder, Offspring, next_birth

UNIT = FloatRange(0.0, 1.0)


def configure(**settings: Any) -> Configuration:
    return Settings(**{"population_size": 8, "seed": 0} | settings).configure(
        seed=0, cohort_size=None, maximize=False
    )


def finished(*params: dict[str, Any]) -> tuple[FinishedTrial, ...]:
    """Finished trials, best first."""
    return tuple(FinishedTrial(float(index), index, one) for index, one in enumerate(params))


def draws(
    survivors: tuple[FinishedTrial, ...],
    range_: Range,
    *,
    n: int = 2000,
    parents: tuple[int, ...] = (0, 1),
    generation: int = 10**9,
    **settings: Any,
) -> list[Value]:
    configuration = configure(**{"resample_probability": 0.0} | settings)
    return [
        Offspring(configuration, number, survivors, parents, generation).value("x", range_)
        for number in range(n)
    ]


class TestFounders:
    def test_each_block_of_founders_is_a_latin_hypercube(self) -> None:
        for block in range(3):
            for name in "xy":
                values = [
                    Founder(configure(), 8 * block + place).value(name, UNIT) for place in range(8)
                ]
                assert sorted(int(value * 8) for value in values) == list(range(8))

    def test_parameters_are_not_aligned(self) -> None:
        orders = {
            tuple(np.argsort([Founder(configure(), n).value(name, UNIT) for n in range(8)]))
            for name in "abcdef"
        }
        assert len(orders) == 6

    def test_choices_are_balanced(self) -> None:
        values = [Founder(configure(), n).value("x", Choices("abcd")) for n in range(8)]
        assert Counter(values) == dict.fromkeys("abcd", 2)


class TestOffspring:
    def test_numbers_are_the_parents_mean_and_a_mutation(self) -> None:
        survivors = finished(*({"x": x} for x in (0.4, 0.6, 0.45, 0.55, 0.5, 0.52, 0.48, 0.5)))
        values = np.array(draws(survivors, UNIT))
        spread = np.std([one.params["x"] for one in survivors], ddof=1)
        assert np.mean(values) == pytest.approx(0.5, abs=0.01)
        assert np.std(values) == pytest.approx(2 / math.sqrt(8) * spread, rel=0.05)

    def test_the_mean_is_taken_on_the_scale_of_the_range(self) -> None:
        survivors = finished({"x": 1e-4}, {"x": 1e-2})
        values = np.array(draws(survivors, FloatRange(1e-6, 1.0, "log")), dtype=float)
        assert np.mean(np.log10(values)) == pytest.approx(-3, abs=0.1)

    def test_mutation_never_falls_below_sigma(self) -> None:
        survivors = finished({"x": 0.5}, {"x": 0.5})
        for generation, sigma in [(0, 0.1), (9, 0.01)]:
            values = draws(survivors, UNIT, generation=generation, mutation_scale=0.1)
            assert np.std(values) == pytest.approx(sigma, rel=0.05)

    def test_whole_numbers_go_on_moving(self) -> None:
        values = draws(finished({"x": 5}, {"x": 5}), IntRange(0, 10))
        counts = Counter(values)
        assert counts.keys() >= {4, 5, 6}
        assert 0.2 < 1 - counts[5] / 2000 < 0.5

    def test_choices_come_from_the_parents(self) -> None:
        survivors = finished({"x": "a"}, {"x": "b"}, {"x": "c"})
        counts = Counter(draws(survivors, Choices("abcd")))
        assert counts.keys() == {"a", "b"}
        assert counts["a"] == pytest.approx(1000, abs=120)

    def test_choices_are_drawn_anew_with_a_small_probability(self) -> None:
        survivors = finished({"x": "a"}, {"x": "a"})
        counts = Counter(draws(survivors, Choices("abcd"), resample_probability=0.2))
        assert 1 - counts["a"] / 2000 == pytest.approx(0.2 * 3 / 4, abs=0.03)

    def test_numbers_are_drawn_anew_a_tenth_as_often(self) -> None:
        values = np.array(
            draws(finished({"x": 0.1}, {"x": 0.1}), UNIT, n=5000, resample_probability=0.5)
        )
        assert np.mean(np.abs(values - 0.1) > 0.01) == pytest.approx(0.05 * 0.98, abs=0.01)

    def test_only_parents_that_have_a_parameter_count(self) -> None:
        survivors = finished({}, {"x": 0.25}, {"x": 0.25}, {"x": 5.0})
        assert np.mean(draws(survivors, UNIT, mutation_scale=0.0)) == 0.25

    def test_if_no_parent_has_it_another_survivor_gives_it(self) -> None:
        survivors = finished({}, {}, {"x": "a"}, {"x": "b"})
        counts = Counter(draws(survivors, Choices("abcd")))
        assert counts.keys() == {"a", "b"}
        assert counts["a"] == pytest.approx(2000 * 2 / 3, abs=120)

    def test_if_nobody_has_it_it_is_drawn_from_the_whole_range(self) -> None:
        values = draws(finished({}, {"x": 7.0}), UNIT)
        assert np.std(values) == pytest.approx(1 / math.sqrt(12), rel=0.05)

    def test_a_parameter_only_one_has_is_searched_widely(self) -> None:
        assert np.std(draws(finished({}, {"x": 0.5}), UNIT)) > 0.1

    def test_what_changed_its_type_is_not_inherited(self) -> None:
        counts = Counter(draws(finished({"x": True}, {"x": "1"}), Choices((1, 0))))
        assert counts[1] == pytest.approx(1000, abs=120)


class TestNextBirth:
    def candidates(self, n_finished: int, n: int = 20) -> Candidates:
        return Candidates(n_finished, finished(*({"x": index / n} for index in range(n))))

    def test_founders_until_the_population_is_full(self) -> None:
        assert isinstance(next_birth(configure(), 99, self.candidates(7, 7)), Founder)
        assert isinstance(next_birth(configure(), 0, self.candidates(8, 8)), Offspring)

    def test_survivors_are_the_elites_and_a_random_rest_of_all(self) -> None:
        rest = Counter[int]()
        for number in range(300):
            birth = next_birth(configure(n_elites=5), number, self.candidates(50))
            assert isinstance(birth, Offspring)
            kept = [one.number for one in birth.survivors]
            assert kept[:5] == [0, 1, 2, 3, 4]
            assert len(kept) == len(set(kept)) == 8
            rest.update(kept[5:])
        assert rest.keys() == set(range(5, 20))
        assert min(rest.values()) > 30

    def test_parents_are_drawn_by_rank(self) -> None:
        counts = Counter[int]()
        for number in range(1000):
            birth = next_birth(configure(n_elites=8), number, self.candidates(80))
            assert isinstance(birth, Offspring)
            assert len(birth.parents) == len(set(birth.parents)) == 2
            counts.update(birth.parents)
        assert [counts[0] > counts[3] > counts[7] > 0]

    def test_generations_count_finished_trials(self) -> None:
        for n_finished, generation in [(8, 1), (15, 1), (16, 2), (800, 100)]:
            birth = next_birth(configure(), 0, self.candidates(n_finished))
            assert isinstance(birth, Offspring)
            assert birth.generation == generation

    def test_all_diverged(self) -> None:
        diverged = tuple(FinishedTrial(math.inf, number, {"x": 0.5}) for number in range(9))
        birth = next_birth(configure(), 9, Candidates(9, diverged))
        assert 0 <= float(str(birth.value("x", UNIT))) <= 1

    @pytest.mark.parametrize(
        "settings",
        [
            {"n_elites": 8, "n_offspring": 0, "n_parents": 8},
            {"n_elites": 1, "n_parents": 1, "roulette": "inverse"},
            {"population_size": 2, "n_elites": 2},
        ],
    )
    def test_extreme_settings(self, settings: dict[str, Any]) -> None:
        configuration = configure(**settings)
        birth = next_birth(configuration, 9, self.candidates(9, configuration.population_size))
        assert isinstance(birth, Offspring)
        assert len(birth.parents) == configuration.n_parents
        assert 0 <= float(str(birth.value("x", UNIT))) <= 1
