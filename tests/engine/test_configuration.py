from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.engine.configuration import (
    BACKENDS,
    PRESETS,
    Configuration,
    Preset,
    Settings,
    broods,
    cohorts,
)
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.back_off import BackOff
from tests.engine.configurations import configuration, configurations

BETWEEN = "between 1 and population_size = 4"
WHOLE = "a whole number"
# One row per rule: the field, what it must be, and values that are not.
RULES: list[tuple[str, str, list[Any]]] = [
    ("population_size", "at least 2 (a population coevolves)", [1, 0, -4]),
    ("population_size", WHOLE, [2.5, 4.0, "16", True, None, math.nan]),
    ("seed", WHOLE, [0.5, "0", False]),
    ("n_offspring", "0 or more", [-1]),
    ("n_offspring", WHOLE, [6.0, "6", True]),
    ("n_parents", BETWEEN, [0, 5]),
    ("n_parents", WHOLE, [2.0, None]),
    ("n_elites", BETWEEN, [0, 5]),
    ("n_elites", WHOLE, [0.6, "2"]),
    ("mutation_scale", "finite and 0 or more", [-0.01, math.inf, math.nan]),
    ("mutation_scale", "a number", ["0.01", None, True, 1j]),
    ("roulette", "'rank' or 'inverse'", ["tournament", None]),
    ("n_epochs", "at least 1", [0]),
    ("n_epochs", WHOLE, [1.5]),
    ("n_evolution_rounds", "0 or more", [-1]),
    ("n_evolution_rounds", WHOLE, [1.0, None]),
    ("n_generations", "at least 1, or None", [0, -3]),
    ("n_generations", "a whole number, or None", [2.0, "20", True]),
    ("selection", "'elitist' or 'truncation'", ["truncate", None, 3]),
    ("back_off", "'step', 'best' or 'none'", ["never", False]),
    ("explore", "'perturb', 'resample' or an Optuna sampler", ["tpe", 0]),
    ("resample_probability", "in [0, 1]", [-0.1, 1.1, math.nan]),
    ("resample_probability", "a number", ["0.1", False]),
    ("n_auditions", "at least 1 and a divisor of n_epochs = 4", [0, -1, 3, 8]),
    ("n_auditions", "a whole number", ["2", 2.0, True]),
    ("keep_probability", "in [0, 1]", [-0.1, 1.1, math.nan]),
    ("keep_probability", "a number", ["0.1", False]),
    ("inherit_optimizer_state", "True or False", [1, "yes"]),
    ("learning_rate_decay", "in (0, 1]", [0.0, 1.01, math.nan]),
    ("learning_rate_decay", "a number", ["0.9"]),
    ("rate_schedule", "'constant' or 'cosine'", ["linear", 0]),
    ("average_iterates", "True or False", [1, "yes"]),
    ("average_steps", "True or False", [1, "yes"]),
    ("backend", f"one of {BACKENDS}", ["fast", None]),
    ("cohort_size", BETWEEN, [0, 5]),
    ("cohort_size", WHOLE, [2.0]),
    ("asynchronous", "True or False", [1, None, "yes"]),
    ("maximize", "True or False", [1, None, "max"]),
    ("max_tries", "at least 1", [0]),
    ("max_tries", WHOLE, [3.0, None]),
    ("lease_seconds", "finite and more than 0", [0.0, -1.0, math.inf, math.nan]),
    ("lease_seconds", "a number", ["60", None]),
]
REFUSED = [(name, expected, value) for name, expected, values in RULES for value in values]


@pytest.mark.parametrize(("name", "expected", "value"), REFUSED)
def test_wrong_numbers_are_refused(name: str, expected: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        replace(configuration(), **{name: value})
    assert str(caught.value) == f"{name} must be {expected}, got {value!r}."


@pytest.mark.parametrize(
    ("name", "expected", "value"),
    # None stands for "as the preset says" where there is such a default.
    [row for row in REFUSED if row[0] in {f.name for f in fields(Settings)}],
)
def test_settings_refuse_them_alike(name: str, expected: str, value: Any) -> None:
    settings = Settings(**{"population_size": 4, name: value})
    if value is None and Settings.__dataclass_fields__[name].default is None:
        settings.configure(seed=0, cohort_size=1, maximize=False)
        return
    with pytest.raises(ConfigurationError) as caught:
        settings.configure(seed=0, cohort_size=1, maximize=False)
    assert str(caught.value) == f"{name} must be {expected}, got {value!r}."


def test_truncation_takes_no_offspring_and_keeps_step() -> None:
    assert configuration(selection="truncation", n_offspring=None).n_offspring == 0
    with pytest.raises(ConfigurationError, match="n_offspring must be 0 with selection='trunc"):
        configuration(selection="truncation", n_offspring=6)
    with pytest.raises(ConfigurationError, match="asynchronous must be False with selection='tr"):
        configuration(selection="truncation", n_offspring=0, asynchronous=True)
    with pytest.raises(ConfigurationError, match=r"asynchronous must be False .* back_off='none'"):
        configuration(back_off="none", asynchronous=True)


def test_every_field_has_a_rule() -> None:
    named = {field.name for field in fields(Configuration)} - {"described"}  # words, not numbers
    assert {name for name, _, _ in RULES} == named


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(preset="fast").configure(seed=0, cohort_size=None, maximize=False)  # type: ignore[arg-type]
    assert str(caught.value) == "preset must be one of ['coevolve', 'paper'], got 'fast'."


@pytest.mark.parametrize(
    "bounds",
    [
        {"population_size": 2, "n_parents": 2, "n_elites": 2, "n_offspring": 0},
        {"n_parents": 1, "n_elites": 1, "n_evolution_rounds": 0, "n_generations": 1},
        {"n_parents": 4, "n_elites": 4, "cohort_size": 4, "n_epochs": 1, "max_tries": 1},
        {"mutation_scale": 0.0, "resample_probability": 0, "learning_rate_decay": 1e-9},
        {"mutation_scale": 1e9, "resample_probability": 1, "learning_rate_decay": 1},
        {"n_generations": None, "lease_seconds": 1e-3, "seed": -1},
    ],
)
def test_the_bounds_themselves_are_allowed(bounds: dict[str, Any]) -> None:
    configuration(**bounds)


def test_numbers_of_numpy_become_pythons_own() -> None:
    """What is stored as JSON and compared later must be plain."""
    chosen = configuration(
        population_size=np.int64(4), mutation_scale=np.float32(0.5), lease_seconds=30
    )
    assert [type(v) for v in (chosen.population_size, chosen.mutation_scale)] == [int, float]
    assert (chosen.population_size, chosen.mutation_scale) == (4, 0.5)
    assert type(chosen.lease_seconds) is float


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        configuration().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        (
            "paper",
            {
                "explore": "resample",
                "inherit_optimizer_state": False,
                "back_off": "step",
                "learning_rate_decay": 0.9,
                "rate_schedule": "constant",
                "average_iterates": False,
                "average_steps": False,
                "keep_probability": 0.0,
                "n_auditions": 1,
                "n_epochs": 1,
            },
        ),
        (
            "coevolve",
            {
                "explore": "perturb",
                "inherit_optimizer_state": True,
                "back_off": "best",
                "learning_rate_decay": 1.0,
                "rate_schedule": "constant",
                "average_iterates": True,
                "average_steps": True,
                "keep_probability": 0.2,
                "n_auditions": 4,
                "n_epochs": 4,
            },
        ),
    ],
)
def test_presets(preset: Preset, expected: dict[str, Any]) -> None:
    """As in ALGORITHM.md, section 4."""
    several = {"species 'SGD'": "SGD()", "species 'Adam'": "Adam()"}
    chosen = Settings(preset=preset).configure(
        seed=3, cohort_size=None, maximize=True, described=several
    )
    expected |= {
        "population_size": 16,
        "n_offspring": 64,
        "n_parents": 2,
        "n_elites": 10,
        "mutation_scale": 0.01,
        "seed": 3,
        "cohort_size": 16,
        "maximize": True,
        "n_generations": None,
    }
    assert {name: getattr(chosen, name) for name in expected} == expected


def test_coevolve_is_the_default_preset() -> None:
    assert Settings().preset == "coevolve"
    assert set(PRESETS) == {"coevolve", "paper"}


@pytest.mark.parametrize("preset", ["paper", "coevolve"])
def test_what_is_given_beats_the_preset(preset: Preset) -> None:
    given: dict[str, Any] = {
        "seed": 11,
        "n_offspring": 0,
        "n_elites": 1,
        "n_epochs": 7,
        "back_off": "step",
        "explore": "sampler",
        "inherit_optimizer_state": False,
        "learning_rate_decay": 0.7,
        "rate_schedule": "cosine",
        "average_iterates": False,
        "average_steps": False,
        "n_generations": 5,
    }
    chosen = Settings(preset=preset, **given).configure(seed=3, cohort_size=2, maximize=False)
    assert {name: getattr(chosen, name) for name in given} == given
    assert chosen.cohort_size == 2
    kept = Settings(preset=preset, explore="perturb", keep_probability=0.3).resolve()
    assert kept["keep_probability"] == 0.3


@pytest.mark.parametrize("back_off", ["step", "none"])
def test_means_of_iterates_go_with_the_best_point_only(back_off: BackOff) -> None:
    settings = Settings(back_off=back_off)
    chosen = settings.configure(seed=0, cohort_size=None, maximize=False)
    assert not chosen.average_iterates
    assert not chosen.average_steps
    with pytest.raises(ConfigurationError, match=rf"'best' \(it is '{back_off}'\), got True"):
        replace(settings, average_iterates=True).configure(
            seed=0, cohort_size=None, maximize=False
        )


def test_means_of_steps_go_with_means_of_iterates_only() -> None:
    settings = Settings(average_iterates=False)
    assert not settings.configure(seed=0, cohort_size=None, maximize=False).average_steps
    with pytest.raises(ConfigurationError, match="average_steps must be False where"):
        replace(settings, average_steps=True).configure(seed=0, cohort_size=None, maximize=False)


def test_copies_of_population_based_training_do_explore() -> None:
    settings = Settings(selection="truncation")
    assert settings.configure(seed=0, cohort_size=None, maximize=False).keep_probability == 0


@pytest.mark.parametrize("settings", [{"preset": "paper"}, {"explore": "sampler"}])
def test_nothing_is_kept_where_nothing_is_inherited(settings: dict[str, Any]) -> None:
    Settings(**settings, keep_probability=0.0).resolve()
    with pytest.raises(ConfigurationError, match=r"is for explore='perturb'.* got 0\.5"):
        Settings(**settings, keep_probability=0.5).resolve()


@pytest.mark.parametrize("settings", [{"preset": "paper"}, {"explore": "sampler"}])
def test_nobody_auditions_where_nothing_is_inherited(settings: dict[str, Any]) -> None:
    assert Settings(**settings, n_epochs=4, n_auditions=1).resolve()["n_auditions"] == 1
    assert Settings(**settings, n_epochs=4).resolve()["n_auditions"] == 1
    with pytest.raises(ConfigurationError, match=r"n_auditions is for explore='perturb'.* got 2"):
        Settings(**settings, n_epochs=4, n_auditions=2).resolve()


@pytest.mark.parametrize(
    ("n_epochs", "n_auditions"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4), (10, 2)]
)
def test_auditions_are_equal_parts_of_the_sgd_step(n_epochs: int, n_auditions: int) -> None:
    assert Settings(n_epochs=n_epochs).resolve()["n_auditions"] == n_auditions
    settings = Settings(n_epochs=n_epochs, n_auditions=n_epochs + 1)
    with pytest.raises(ConfigurationError, match=f"a divisor of n_epochs = {n_epochs}, got"):
        settings.configure(seed=0, cohort_size=None, maximize=False)


@pytest.mark.parametrize("described", [None, {}, {"data": "some"}, {"species 'SGD'": "SGD()"}])
def test_only_several_species_are_auditioned(described: dict[str, str] | None) -> None:
    chosen = Settings().configure(seed=0, cohort_size=None, maximize=False, described=described)
    assert chosen.n_auditions == 1


def test_one_species_cannot_be_auditioned() -> None:
    settings = Settings(n_auditions=2)
    with pytest.raises(ConfigurationError, match=r"with a single species.* or None, got 2"):
        settings.configure(
            seed=0, cohort_size=None, maximize=False, described={"species 'SGD'": "SGD()"}
        )


def test_copies_explore_and_founders_of_theirs_do_not_audition() -> None:
    assert Settings(selection="truncation").resolve()["n_auditions"] == 1


@given(st.integers(2, 500))
def test_defaults_grow_with_the_population(mu: int) -> None:
    chosen = Settings(population_size=mu).configure(seed=0, cohort_size=None, maximize=False)
    assert chosen.n_offspring == 4 * mu
    assert chosen.cohort_size == mu
    assert abs(chosen.n_elites - 0.6 * mu) <= 0.5


@given(configurations())
def test_the_stored_identity_survives_json(chosen: Configuration) -> None:
    stored = json.loads(json.dumps(chosen.to_json(), allow_nan=False))
    assert stored == chosen.to_json()
    chosen.check_same(stored)


OTHER: dict[str, Any] = {
    "population_size": 5,
    "seed": 1,
    "n_offspring": 7,
    "n_parents": 3,
    "n_elites": 3,
    "mutation_scale": 0.02,
    "roulette": "inverse",
    "selection": "truncation",
    "n_epochs": 2,
    "n_evolution_rounds": 2,
    "n_generations": 9,
    "back_off": "step",
    "explore": "resample",
    "resample_probability": 0.2,
    "keep_probability": 0.5,
    "n_auditions": 2,
    "inherit_optimizer_state": False,
    "learning_rate_decay": 0.8,
    "rate_schedule": "cosine",
    "average_iterates": False,
    "average_steps": False,
    "backend": "rows",
    "cohort_size": 2,
    "asynchronous": True,
    "maximize": True,
    "max_tries": 9,
    "lease_seconds": 9.0,
    "described": {"species 'SGD'": "other"},
}
FREE = {"n_generations", "max_tries", "lease_seconds"}


def test_every_field_is_either_compared_or_free() -> None:
    names = {field.name for field in fields(Configuration)}
    assert OTHER.keys() == names
    assert configuration().to_json().keys() == names - FREE


@pytest.mark.parametrize("name", sorted(OTHER.keys() - FREE - {"described"}))
def test_another_configuration_is_refused_by_name(name: str) -> None:
    mine = configuration()
    with pytest.raises(ConfigurationError) as caught:
        mine.check_same(mine.to_json() | {name: OTHER[name]})
    detail = f"{name} is {OTHER[name]!r} in the study and {getattr(mine, name)!r} here"
    assert f"another configuration: {detail}. Open it" in str(caught.value)


@pytest.mark.parametrize("name", sorted(FREE))
def test_how_long_a_run_goes_on_may_differ(name: str) -> None:
    configuration().check_same(replace(configuration(), **{name: OTHER[name]}).to_json())


def test_a_study_from_before_there_was_a_choice_is_opened() -> None:
    stored = configuration().to_json()
    del stored["selection"]
    configuration().check_same(stored)
    with pytest.raises(ConfigurationError, match="selection is 'elitist' in the study"):
        configuration(selection="truncation", n_offspring=None).check_same(stored)


def test_every_difference_is_named() -> None:
    changed = {name: value for name, value in OTHER.items() if name not in FREE}
    with pytest.raises(ConfigurationError) as caught:
        configuration().check_same(configuration().to_json() | changed)
    for name in changed.keys() - {"described"}:
        assert f"{name} is " in str(caught.value)


def test_what_is_described_is_compared_one_by_one() -> None:
    mine = replace(configuration(), described={"species 'SGD'": "lr to 1", "data": "as ever"})
    stored = replace(configuration(), described={"species 'SGD'": "lr to 2", "data": "as ever"})
    with pytest.raises(ConfigurationError) as caught:
        mine.check_same(stored.to_json())
    assert "species 'SGD' is 'lr to 2' in the study and 'lr to 1' here" in str(caught.value)
    assert "data" not in str(caught.value)


def test_older_studies_may_not_name_loss_and_metric() -> None:
    mine = replace(configuration(), described={"loss": "mse", "metric": "error", "data": "new"})
    mine.check_same(replace(mine, described={"data": "new"}).to_json())
    with pytest.raises(ConfigurationError, match="data is 'old' in the study and 'new' here"):
        mine.check_same(replace(mine, described={"data": "old"}).to_json())
    with pytest.raises(ConfigurationError, match="metric is 'mae' in the study and 'error' here"):
        mine.check_same(replace(mine, described={**mine.described, "metric": "mae"}).to_json())


def test_a_field_the_study_does_not_know_is_named() -> None:
    stored = configuration().to_json()
    del stored["roulette"]
    with pytest.raises(ConfigurationError, match="roulette is None in the study and 'rank' here"):
        configuration().check_same(stored)


def test_studies_older_than_asynchronous_runs_have_a_barrier() -> None:
    stored = configuration().to_json()
    del stored["asynchronous"]
    configuration().check_same(stored)
    with pytest.raises(ConfigurationError, match="asynchronous is False in the study and True"):
        configuration(asynchronous=True).check_same(stored)


def test_asynchronous_individuals_train_one_by_one_unless_told_otherwise() -> None:
    assert configuration(asynchronous=True, cohort_size=None).cohort_size == 1
    assert configuration(asynchronous=True, cohort_size=3).cohort_size == 3


@given(configurations(), st.integers(0, 40))
def test_cohorts_are_a_partition(chosen: Configuration, n_individuals: int) -> None:
    parts = cohorts(chosen, n_individuals)
    assert [number for part in parts for number in part] == list(range(n_individuals))
    assert all(len(part) == chosen.cohort_size for part in parts[:-1])
    assert all(1 <= len(part) <= chosen.cohort_size for part in parts)


@given(configurations())
def test_broods_are_a_partition_into_no_more_slots_than_training_has(
    chosen: Configuration,
) -> None:
    parts = broods(chosen)
    assert [number for part in parts for number in part] == list(range(chosen.n_offspring))
    assert len(parts) <= len(cohorts(chosen, chosen.population_size))
    assert all(parts)
    sizes = [len(part) for part in parts]
    assert not sizes or max(sizes) - min(sizes) <= 1
