"""Species and hyperparameters of a generation: drawn anew, or inherited with a change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import numpy as np

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.engine.planning import trained_ancestor
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.evolution.space import (
    FloatRange,
    Range,
    Space,
    Value,
    begin,
    contains,
    perturb,
    resample,
)

# A power that underflows to 0 would leave no range; far above, nothing trains any more.
_LOWEST_DECAY = 1e-100
_STARTING_SHARE = 0.5


class Nothing(Enum):
    """The type of ``NOTHING``."""

    NOTHING = "nothing"


NOTHING: Final = Nothing.NOTHING
"""Stands for a value that the birth parent does not have: None is a value like any other."""


def explore_nothing(
    births: Sequence[Individual], parents: Mapping[Reference, Individual]
) -> list[tuple[str, Mapping[str, Value]]]:
    """Leave the choice to the objective (define by run)."""
    del parents
    return [("", {}) for _ in births]


@dataclass(frozen=True)
class ExploreSpaces:
    """Explores declared search spaces, one per species (``"perturb"`` and ``"resample"``).

    Attributes:
        configuration: Says which of the two ways, and how often to draw anew.
        spaces: Species name -> parameter name -> range.
    """

    configuration: Configuration
    spaces: Mapping[str, Space]

    def __call__(
        self, births: Sequence[Individual], parents: Mapping[Reference, Individual]
    ) -> list[tuple[str, Mapping[str, Value]]]:
        """Choose for each birth by its own random streams."""
        return [self._choose(birth, parents) for birth in births]

    def _choose(
        self, birth: Individual, parents: Mapping[Reference, Individual]
    ) -> tuple[str, Mapping[str, Value]]:
        """Inherit the species and its values, or draw both anew with a small probability."""
        rng = species_stream(self.configuration, birth.reference)
        parent = trained_ancestor(birth, parents)
        inherited = (
            None
            if parent is None
            or self.configuration.explore == "resample"
            or is_drawn_anew(self.configuration, birth.reference, rng)
            else parent
        )
        names = sorted(self.spaces)  # whoever plans, in whatever order it declared them
        species = names[int(rng.integers(len(names)))] if inherited is None else inherited.species
        values = {
            name: explore_value(
                self.configuration,
                birth.reference,
                name,
                range_,
                NOTHING if inherited is None else inherited.hyperparameters.get(name, NOTHING),
            )
            for name, range_ in self.spaces[species].items()
        }
        return species, values


def keeps(configuration: Configuration, reference: Reference) -> bool:
    """Whether an individual trains on with the very species and values of its birth parent.

    If everybody moved in every generation, nobody could stay where it is best, least of all at the
    end of a range, where a value is reflected.
    """
    if configuration.explore != "perturb":
        return False
    rng = stream(configuration.seed, reference.generation, reference.number, "keep")
    return bool(rng.random() < configuration.keep_probability)


def species_stream(configuration: Configuration, reference: Reference) -> np.random.Generator:
    """Of one individual's choice of species."""
    return stream(configuration.seed, reference.generation, reference.number, "species")


def is_drawn_anew(
    configuration: Configuration, reference: Reference, rng: np.random.Generator
) -> bool:
    """Whether species and values come from the whole space, with a small probability.

    Args:
        configuration: The run's settings.
        reference: Whose.
        rng: A fresh ``species_stream``.
    """
    return not keeps(configuration, reference) and bool(
        rng.random() < configuration.resample_probability
    )


def explore_value(
    configuration: Configuration,
    reference: Reference,
    name: str,
    range_: Range,
    inherited: Value | Nothing,
) -> Value:
    """One hyperparameter of one individual, from the stream that belongs to it alone.

    Args:
        configuration: The run's settings.
        reference: Whose value.
        name: The parameter's name.
        range_: Its range; ``lr`` is annealed by ``annealed_range`` first.
        inherited: The birth parent's value; ``NOTHING`` to draw from the whole range, or to
            begin with its ``start``.
    """
    rng = stream(
        configuration.seed, reference.generation, reference.number, "hyperparameter", name
    )
    range_ = annealed_range(configuration, reference.generation, name, range_)
    if inherited is NOTHING:
        starts = begins_with_starts(configuration, reference)
        return begin(range_, rng) if starts else resample(range_, rng)
    if keeps(configuration, reference) and contains(range_, inherited):
        return inherited
    return perturb(
        range_, inherited, resample_probability=configuration.resample_probability, rng=rng
    )


def begins_with_starts(configuration: Configuration, reference: Reference) -> bool:
    """Whether an individual begins with the ``start`` of every range that has one.

    Half of the founders do, where values are inherited: the others keep the range represented.
    """
    if configuration.explore != "perturb" or reference.generation > 0:
        return False
    rng = stream(configuration.seed, reference.generation, reference.number, "start")
    return bool(rng.random() < _STARTING_SHARE)


def annealed_range(
    configuration: Configuration, generation: int, name: str, range_: Range
) -> Range:
    """Shrink both bounds of ``lr`` by ``learning_rate_decay`` per generation.

    Cui et al. 2018, section 4: the range learning rates are drawn from is annealed over the
    generations. Other parameters, and learning rates on a grid, keep their range.
    """
    decay = max(configuration.learning_rate_decay**generation, _LOWEST_DECAY)
    if name != "lr" or decay == 1.0 or not isinstance(range_, FloatRange) or range_.step:
        return range_
    return replace(range_, low=range_.low * decay, high=range_.high * decay, start=None)
