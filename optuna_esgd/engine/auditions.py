"""What founders try before they keep one species and one set of hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import ExploreSpaces
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.evolution.space import Space


def candidates(
    founders: Sequence[Individual],
    configuration: Configuration,
    spaces: Mapping[str, Space],
    *,
    audition: int,
) -> list[Individual]:
    """Founders with what they try in one of their auditions.

    In audition a, counted from 0, founder j trains with what founder j + a·μ of a larger
    population would train with; so the first candidate is what was planned.

    Args:
        founders: Of generation 0, whatever they are equipped with.
        configuration: The run's settings.
        spaces: Species name -> parameter name -> range.
        audition: Which one.
    """
    mu = configuration.population_size
    drawing = [
        replace(one, reference=Reference(0, 0, one.reference.number + audition * mu))
        for one in founders
    ]
    drawn = ExploreSpaces(configuration, spaces)(drawing, {})
    return [
        replace(founder, species=species, hyperparameters=hyperparameters)
        for founder, (species, hyperparameters) in zip(founders, drawn, strict=True)
    ]
