from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import (
    NOTHING,
    ExploreSpaces,
    annealed_range,
    explore_nothing,
    explore_value,
)
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.engine.planning import plan_founders, plan_survivors
from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Space, Value, contains
from tests.engine.configurations import configuration, configurations
from tests.engine.fakes import SPACES, Landscape, Run
from tests.evolution.statistics import assert_frequencies

SGD: dict[str, Value] = {"lr": 0.01, "momentum": 0.9, "nesterov": True}
FAMILY: dict[Reference, Individual] = {
    one.reference: one
    for one in (
        Individual(
            reference=Reference(0, 0, 0), birth="founder", species="sgd", hyperparameters=SGD
        ),
        Individual(
            reference=Reference(0, 0, 1),
            birth="founder",
            species="adam",
            hyperparameters={"lr": 1e-3, "batch_size": 64, "schedule": None},
        ),
        Individual(
            reference=Reference(0, 1, 5),
            birth="recombination",
            parents=(Reference(0, 0, 0), Reference(0, 0, 1)),
        ),
        Individual(
            reference=Reference(0, 2, 2),
            birth="recombination",
            parents=(Reference(0, 1, 5), Reference(0, 0, 1)),
        ),
    )
}


def births(n_births: int, *parents: tuple[int, int, int]) -> list[Individual]:
    lineage = tuple(Reference(*parent) for parent in parents)
    return [
        Individual(reference=Reference(1, 0, number), birth="survivor", parents=lineage)
        for number in range(n_births)
    ]


def chosen(
    configuration: Configuration,
    births: Sequence[Individual],
    spaces: Mapping[str, Space] = SPACES,
) -> list[tuple[str, Mapping[str, Value]]]:
    return ExploreSpaces(configuration, spaces)(births, FAMILY)


def assert_belongs(species: str, values: Mapping[str, Value], spaces: Mapping[str, Space]) -> None:
    assert list(values) == list(spaces[species])
    for name, value in values.items():
        assert contains(spaces[species][name], value), (name, value)


@given(configurations(learning_rate_decay=1.0), st.integers(0, 2**32))
def test_values_of_whole_runs_stay_in_the_space(configuration: Configuration, seed: int) -> None:
    run = Run(configuration, ExploreSpaces(configuration, SPACES), Landscape(seed, 0.1))
    for reference, one in run.go().individuals.items():
        if reference.round == 0:
            assert_belongs(one.species, one.hyperparameters, SPACES)
        else:
            assert (one.species, one.hyperparameters) == ("", {})


def test_founders_draw_species_and_values_anew() -> None:
    many = configuration(population_size=2000)
    founders = plan_founders(many, ExploreSpaces(many, SPACES)).individuals
    assert_frequencies([one.species for one in founders], {"sgd": 0.5, "adam": 0.5})
    momenta = [one.hyperparameters["momentum"] for one in founders if one.species == "sgd"]
    assert len(set(momenta)) == len(momenta)


_STARTS: Mapping[str, Space] = {
    "sgd": {
        "lr": FloatRange(1e-4, 1.0, "log"),
        "momentum": FloatRange(0.5, 0.99, "one_minus", start=0.9),
        "n": IntRange(1, 9, start=3),
    }
}


def test_half_of_the_founders_begin_with_all_starts_there_are() -> None:
    """What they pass on moves from there, and whoever is drawn anew later has any value."""
    many = configuration(population_size=500, resample_probability=0.5, n_generations=2)
    population = Run(many, ExploreSpaces(many, _STARTS), Landscape(0)).go()
    founders = [one.hyperparameters for one in population.generation(0)]
    starting = [values for values in founders if values["momentum"] == 0.9]
    assert {values["n"] for values in starting} == {3}
    assert_frequencies([values["momentum"] == 0.9 for values in founders], {True: 0.5, False: 0.5})
    assert len({values["momentum"] for values in founders}) == 1 + len(founders) - len(starting)
    assert len({values["lr"] for values in founders}) == len(founders)
    later = {one.hyperparameters["momentum"] for one in population.generation(1)}
    assert {0.9, 0.875, 0.92} < {round(float(value), 9) for value in later}  # type: ignore[arg-type]
    assert len(later) > 100


def test_the_same_founders_are_drawn_beside_a_start() -> None:
    """Every value has its own stream: learning rates do not depend on where momentum begins."""
    without = {
        name: FloatRange(0.5, 0.99) if name == "momentum" else range_
        for name, range_ in _STARTS["sgd"].items()
    }
    some = configuration(population_size=20)
    rates = [
        [one.hyperparameters["lr"] for one in plan_founders(some, explore).individuals]
        for explore in (ExploreSpaces(some, _STARTS), ExploreSpaces(some, {"sgd": without}))
    ]
    assert rates[0] == rates[1]


def test_where_nothing_is_inherited_founders_draw_everything() -> None:
    drawing = configuration(population_size=500, explore="resample")
    founders = plan_founders(drawing, ExploreSpaces(drawing, _STARTS)).individuals
    momenta = [one.hyperparameters["momentum"] for one in founders]
    assert len(set(momenta)) == len(momenta)


@pytest.mark.parametrize(
    "lineage",
    [[(0, 0, 0)], [(0, 0, 0), (0, 0, 1)], [(0, 1, 5)], [(0, 1, 5), (0, 0, 1)], [(0, 2, 2)]],
    ids=["elite", "recombination", "its child", "with another", "its grandchild"],
)
def test_values_are_inherited_from_the_first_parent_that_trained(
    lineage: list[tuple[int, int, int]],
) -> None:
    keep = configuration(resample_probability=0.0, keep_probability=0.0)
    for species, values in chosen(keep, births(50, *lineage)):
        assert species == "sgd"
        assert values["nesterov"] is True
        assert round(float(values["lr"]), 12) in {0.008, 0.0125}  # type: ignore[arg-type]
        assert round(float(values["momentum"]), 12) in {0.92, 0.875}  # type: ignore[arg-type]


def test_grandchildren_inherit_in_whole_runs() -> None:
    """With two evolution rounds parents of survivors are offspring, which carry no species."""
    kept = configuration(
        n_evolution_rounds=2, n_generations=6, resample_probability=0.0, n_elites=1, n_offspring=20
    )
    population = Run(kept, ExploreSpaces(kept, SPACES), Landscape(0)).go()
    n_chains = 0
    for generation in range(1, 6):
        for one in population.generation(generation):
            first = one.parents[0]
            n_chains += first.round > 0
            while first.round > 0:
                first = population.individuals[first].parents[0]
            assert one.species == population.individuals[first].species
            assert one.inherits_optimizer_state
    assert n_chains > 0


def test_species_and_values_are_drawn_anew_with_a_small_probability() -> None:
    some = configuration(resample_probability=0.2, keep_probability=0.0)
    drawn = chosen(some, births(3000, (0, 0, 0)))
    # Half of those drawn anew are drawn as what they were.
    assert_frequencies([species for species, _ in drawn], {"sgd": 0.9, "adam": 0.1})
    moved = {0.008, 0.0125}
    is_perturbed = [
        round(float(values["lr"]), 12) in moved  # type: ignore[arg-type]
        for _, values in drawn
    ]
    assert_frequencies(is_perturbed, {True: 0.8, False: 0.2})
    # A choice is drawn anew with its individual (0.2), or by itself (0.8 × 0.2).
    kept = [values["nesterov"] for species, values in drawn if species == "sgd"]
    p = (0.1 * 0.5 + 0.8 * 0.2 * 0.5) / 0.9
    assert_frequencies(kept, {True: 1 - p, False: p})


@pytest.mark.parametrize(
    "settings",
    [
        # Refused today, but there are studies that were made so.
        {"explore": "resample", "keep_probability": 1.0},
        {"explore": "perturb", "resample_probability": 1.0, "keep_probability": 0.0},
    ],
)
def test_resample_inherits_nothing(settings: dict[str, Any]) -> None:
    drawn = chosen(replace(configuration(), **settings), births(1000, (0, 0, 0)))
    assert_frequencies([species for species, _ in drawn], {"sgd": 0.5, "adam": 0.5})
    rates = [values["lr"] for _, values in drawn]
    assert len(set(rates)) == len(rates)


def test_some_train_on_as_their_parents_did() -> None:
    """Species and all values together: where all are best, one alone that moves is a loss."""
    some = configuration(resample_probability=0.4, keep_probability=0.25)
    drawn = chosen(some, births(3000, (0, 1, 5), (0, 0, 1)))
    assert_frequencies(
        [(kind, values) == ("sgd", SGD) for kind, values in drawn], {True: 0.25, False: 0.75}
    )
    # Of the others the species is drawn anew as often as is said.
    assert_frequencies([kind for kind, _ in drawn], {"sgd": 1 - 0.15, "adam": 0.15})


def test_a_kept_value_that_the_range_does_not_hold_is_drawn_anew() -> None:
    everyone = configuration(keep_probability=1.0)
    spaces = {"sgd": {"lr": FloatRange(0.1, 1.0), "momentum": FloatRange(0.5, 0.99)}}
    drawn = [values for _, values in chosen(everyone, births(50, (0, 0, 0)), spaces)]
    assert all(contains(spaces["sgd"]["lr"], values["lr"]) for values in drawn)
    assert {values["momentum"] for values in drawn} == {0.9}


def test_none_is_inherited_like_any_value() -> None:
    kept = configuration(resample_probability=0.0)
    for species, values in chosen(kept, births(50, (0, 0, 1))):
        assert species == "adam"
        assert values["schedule"] is None


def test_a_value_the_parent_does_not_have_is_drawn_from_the_whole_range() -> None:
    spaces = {"sgd": {**SPACES["sgd"], "weight_decay": FloatRange(1e-6, 1e-2, "log")}}
    kept = configuration(resample_probability=0.0)
    decays = [v["weight_decay"] for _, v in chosen(kept, births(400, (0, 0, 0)), spaces)]
    assert len(set(decays)) == 400
    assert_frequencies([d < 1e-4 for d in decays], {True: 0.5, False: 0.5})  # type: ignore[operator]


def test_a_value_the_range_no_longer_holds_is_drawn_anew() -> None:
    spaces = {"sgd": {"lr": FloatRange(0.1, 1.0), "nesterov": Choices(("yes", "no"))}}
    for species, values in chosen(
        configuration(resample_probability=0.0), births(50, (0, 0, 0)), spaces
    ):
        assert_belongs(species, values, spaces)


def test_every_value_has_a_stream_of_its_own() -> None:
    """Another parameter, another species or another individual changes no draw."""
    fresh = configuration(explore="resample")
    alone = chosen(fresh, births(20), {"sgd": {"lr": SPACES["sgd"]["lr"]}})
    among = chosen(fresh, births(40), {"sgd": SPACES["sgd"]})
    assert [v["lr"] for _, v in alone] == [v["lr"] for _, v in among[:20]]
    value = explore_value(fresh, Reference(1, 0, 7), "lr", SPACES["sgd"]["lr"], NOTHING)
    assert value == alone[7][1]["lr"]


def test_values_of_one_individual_are_not_correlated() -> None:
    unit = FloatRange(0.0, 1.0)
    drawn = chosen(configuration(explore="resample"), births(500), {"sgd": {"a": unit, "b": unit}})
    a, b = np.array([[values["a"], values["b"]] for _, values in drawn], dtype=float).T
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(500)


def test_the_order_in_which_species_are_declared_does_not_matter() -> None:
    fresh = configuration(explore="resample")
    backwards = dict(reversed(SPACES.items()))
    assert chosen(fresh, births(50)) == chosen(fresh, births(50), backwards)


def test_an_annealed_range_has_no_start() -> None:
    """Only founders begin with one, and theirs is not annealed yet."""
    half, range_ = configuration(learning_rate_decay=0.5), FloatRange(0.8, 8.0, "log", start=4.0)
    assert annealed_range(half, 0, "lr", range_) == range_
    assert annealed_range(half, 3, "lr", range_) == FloatRange(0.1, 1.0, "log")


@pytest.mark.parametrize("name", ["lr", "momentum", "lr_decay"])
def test_decay_anneals_the_learning_rate_only(name: str) -> None:
    annealed = annealed_range(
        configuration(learning_rate_decay=0.5), 3, name, FloatRange(0.8, 8.0, "log")
    )
    assert annealed == (
        FloatRange(0.1, 1.0, "log") if name == "lr" else FloatRange(0.8, 8.0, "log")
    )


@pytest.mark.parametrize(
    "range_",
    [FloatRange(0.1, 0.5, step=0.1), IntRange(1, 5), Choices((0.1, 0.2))],
    ids=str,
)
def test_learning_rates_on_a_grid_are_not_annealed(
    range_: FloatRange | IntRange | Choices,
) -> None:
    assert annealed_range(configuration(learning_rate_decay=0.5), 3, "lr", range_) == range_


def test_annealing_never_empties_the_range() -> None:
    """In the paper's preset 0.9^generation underflows to 0 after some 7000 generations."""
    preset = configuration(preset="paper")
    range_ = annealed_range(preset, 100_000, "lr", FloatRange(1e-5, 1.0, "log"))
    assert isinstance(range_, FloatRange)
    assert 0 < range_.low < range_.high < 1e-50


@pytest.mark.parametrize("explore", ["resample", "perturb"])
def test_annealed_values_lie_in_the_annealed_range(explore: str) -> None:
    annealing = configuration(
        explore=explore, learning_rate_decay=0.5, n_generations=5, n_elites=1, n_offspring=12
    )
    population = Run(annealing, ExploreSpaces(annealing, SPACES), Landscape(0)).go()
    for generation in range(5):
        for one in population.generation(generation):
            for name, range_ in SPACES[one.species].items():
                annealed = annealed_range(annealing, generation, name, range_)
                assert contains(annealed, one.hyperparameters[name])


@pytest.mark.parametrize("inherits", [True, False])
@pytest.mark.parametrize("resample_probability", [0.0, 1.0])
def test_optimizer_state_is_inherited_while_the_species_stays(
    resample_probability: float, *, inherits: bool
) -> None:
    coevolving = configuration(
        inherit_optimizer_state=inherits,
        resample_probability=resample_probability,
        keep_probability=0.0,
        n_generations=6,
        population_size=6,
    )
    population = Run(coevolving, ExploreSpaces(coevolving, SPACES), Landscape(0)).go()
    same_species = set()
    for generation in range(1, 6):
        for one in population.generation(generation):
            first = population.individuals[one.parents[0]]
            same_species.add(one.species == first.species)
            assert one.inherits_optimizer_state == (inherits and one.species == first.species)
    assert same_species == ({True} if resample_probability == 0 else {True, False})


def test_define_by_run_leaves_the_choice_to_the_objective() -> None:
    assert explore_nothing(births(3), {}) == [("", {})] * 3
    run = configuration(population_size=3)
    facts = Run(run, explore_nothing, Landscape(0)).go().facts()
    plan = plan_survivors(facts, run, explore_nothing)
    assert all(one.species == "" and not one.hyperparameters for one in plan.individuals)
