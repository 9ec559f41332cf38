"""Configurations for tests: a small one by hand, and all kinds at random."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st

from optuna_esgd.engine.configuration import PRESETS, Configuration, Preset, Settings
from optuna_esgd.evolution.mating import Roulette


def configuration(
    *, cohort_size: int | None = 1, maximize: bool = False, **settings: Any
) -> Configuration:
    """Four individuals for three generations; what is not given is as the preset says."""
    small = {"population_size": 4, "seed": 0, "n_offspring": 6, "n_generations": 3}
    return Settings(**{**small, **settings}).configure(
        seed=0, cohort_size=cohort_size, maximize=maximize
    )


@st.composite
def configurations(draw: st.DrawFn, **fixed: Any) -> Configuration:
    """Any run small enough to be simulated; ``fixed`` settings are not drawn."""
    mu = fixed.get("population_size") or draw(st.integers(2, 6))
    drawn = {
        "population_size": st.just(mu),
        "seed": st.integers(0, 2**32),
        "preset": st.sampled_from(get_args(Preset)),
        "n_offspring": st.integers(0, 8),
        "n_parents": st.integers(1, mu),
        "n_elites": st.integers(1, mu),
        "roulette": st.sampled_from(get_args(Roulette)),
        "selection": st.just("elitist"),
        "n_epochs": st.none() | st.integers(1, 3),
        "n_evolution_rounds": st.integers(0, 2),
        "n_generations": st.integers(1, 4),
        "back_off": st.none() | st.sampled_from(["step", "best"]),  # those with a guarantee
        "explore": st.none() | st.sampled_from(["perturb", "resample"]),
        "resample_probability": st.sampled_from([0.0, 0.1, 1.0]),
        "keep_probability": st.none() | st.sampled_from([0.0, 1.0]),
        "inherit_optimizer_state": st.none() | st.booleans(),
        "learning_rate_decay": st.none() | st.sampled_from([0.5, 1.0]),
        "rate_schedule": st.none() | st.sampled_from(["constant", "cosine"]),
        "average_iterates": st.none() | st.just(False),  # True goes with one back-off only
        "average_steps": st.none() | st.just(False),
        "asynchronous": st.just(False),
    }
    settings = {name: draw(strategy) for name, strategy in drawn.items() if name not in fixed}
    chosen = {**settings, **fixed}
    if (chosen["explore"] or PRESETS[chosen["preset"]]["explore"]) != "perturb":
        settings["keep_probability"] = None  # nothing is inherited
    return Settings(**{**settings, **fixed}).configure(
        seed=0, cohort_size=draw(st.integers(1, mu)), maximize=draw(st.booleans())
    )
