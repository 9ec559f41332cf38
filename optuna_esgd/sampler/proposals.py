"""Hyperparameters of new individuals, proposed by any Optuna sampler from what past ones gained.

Each generation the sampler sees a study in memory: one finished trial per past individual, whose
value says how much its SGD step improved it. The study and every random number in the sampler
are made anew from the population and its counters, so that whoever plans plans the same.

Samplers that model the finished trials (TPE, GP, ...) learn from all generations; NSGA-II and
NSGA-III breed from the best of all. One that keeps its state on the trials it proposed (CMA-ES)
begins afresh each generation.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import FrozenTrial, Trial

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import annealed_range
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.evolution.randomness import derive_seed
from optuna_esgd.evolution.space import FloatRange, Range, Space, Value
from optuna_esgd.sampler.distributions import contains, plain_value, suggest, to_distribution
from optuna_esgd.sampler.seeding import seed_sampler

_SPECIES = "species"
_STUDY_NAME = "optuna_esgd: past individuals"


@dataclass(frozen=True)
class ExploreSampler:
    """Explores with an Optuna sampler (``explore=<sampler>``).

    Attributes:
        configuration: The run's settings.
        spaces: Species name -> parameter name -> range.
        sampler: Never changed: each generation works on a copy.
        history: Gives the individuals of round 0 so far.
    """

    configuration: Configuration
    spaces: Mapping[str, Space]
    sampler: BaseSampler
    history: Callable[[], Sequence[Individual]]

    def __call__(
        self, births: Sequence[Individual], parents: Mapping[Reference, Individual]
    ) -> list[tuple[str, Mapping[str, Value]]]:
        """Ask the sampler for one proposal per birth."""
        del parents
        if not births:
            return []
        generation, _, number = births[0].reference
        study = self._open_study(generation, number)
        spaces = {
            species: {name: self._range(generation, name, one) for name, one in space.items()}
            for species, space in self.spaces.items()
        }
        return [suggest_species(study.ask(), spaces) for _ in births]

    def _open_study(self, generation: int, number: int) -> optuna.Study:
        """A study for one plan, whose first birth has this number."""
        sampler = copy.deepcopy(self.sampler)
        seed = derive_seed(self.configuration.seed, generation, number, "explore")
        study = open_study_in_memory(sampler, seed)
        # A genetic algorithm asks which generation a trial was of: with all in the first one, the
        # best of all are the parents.
        attributes = {}
        if isinstance(sampler, BaseGASampler):
            attributes[sampler._get_generation_key()] = 0
        past = sorted(
            (one for one in self.history() if one.reference.generation < generation),
            key=lambda one: one.reference,
        )
        for one, gain in ranked_improvements(past):
            trial = self._past_trial(one, gain, attributes)
            if trial is not None:
                study.add_trial(trial)
        return study

    def _past_trial(
        self, one: Individual, gain: float, attributes: Mapping[str, int]
    ) -> FrozenTrial | None:
        """Show an individual as a trial; None if it is not of these search spaces."""
        space = self.spaces.get(one.species)
        if space is None or not space.keys() <= one.hyperparameters.keys():
            return None
        params: dict[str, Value] = {}
        distributions: dict[str, BaseDistribution] = {}
        if len(self.spaces) > 1:
            params[_SPECIES] = one.species
            distributions[_SPECIES] = _choice_of(self.spaces)
        for name, range_ in space.items():
            shown = _Shown.of(self._range(one.reference.generation, name, range_))
            value = shown.encode(one.hyperparameters[name])
            if not contains(shown.distribution, value):
                return None
            params[_name(one.species, name)] = value
            distributions[_name(one.species, name)] = shown.distribution
        return optuna.create_trial(
            params=params, distributions=distributions, value=gain, system_attrs=dict(attributes)
        )

    def _range(self, generation: int, name: str, range_: Range) -> Range:
        return annealed_range(self.configuration, generation, name, range_)


def suggest_species(trial: Trial, spaces: Mapping[str, Space]) -> tuple[str, Mapping[str, Value]]:
    """Let the sampler of a trial choose a species, where there are several, and its values.

    Args:
        trial: To suggest with.
        spaces: Species name -> parameter name -> range.
    """
    species, *others = sorted(spaces)
    if others:
        species = str(suggest(trial, _SPECIES, _choice_of(spaces)))
    values = {}
    for name, range_ in spaces[species].items():
        shown = _Shown.of(range_)
        values[name] = shown.decode(suggest(trial, _name(species, name), shown.distribution))
    return species, values


def _choice_of(spaces: Mapping[str, Space]) -> BaseDistribution:
    return optuna.distributions.CategoricalDistribution(sorted(spaces))


@dataclass(frozen=True)
class _Shown:
    """How a range looks to the sampler: values near 1 as their distance from 1, on a log scale."""

    range: Range
    distribution: BaseDistribution

    @classmethod
    def of(cls, range_: Range) -> _Shown:
        if _is_near_one(range_):
            distances = FloatDistribution(1.0 - range_.high, 1.0 - range_.low, log=True)
            return cls(range_, distances)
        return cls(range_, to_distribution(range_))

    def encode(self, value: Value) -> Value:
        if _is_near_one(self.range) and isinstance(value, float):
            return 1.0 - value
        return value

    def decode(self, value: Value) -> Value:
        if _is_near_one(self.range) and isinstance(value, float):
            return min(max(1.0 - value, self.range.low), self.range.high)
        return plain_value(self.distribution, value)


def _is_near_one(range_: Range) -> TypeGuard[FloatRange]:
    return isinstance(range_, FloatRange) and range_.scale == "one_minus" and range_.step is None


def open_study_in_memory(sampler: BaseSampler, seed: int) -> optuna.Study:
    """A quiet, empty study to be maximised, whose sampler is seeded in place."""
    seed_sampler(sampler, seed)
    logging.getLogger("optuna.storages._in_memory").addFilter(_is_not_about_us)
    return optuna.create_study(
        storage=optuna.storages.InMemoryStorage(),
        sampler=sampler,
        study_name=_STUDY_NAME,
        direction="maximize",
    )


def ranked_improvements(past: Sequence[Individual]) -> list[tuple[Individual, float]]:
    """How well each SGD step did among those of its generation.

    Early generations improve by far more than late ones, whatever they train with, so
    improvements compare within a generation only.

    Args:
        past: Individuals of round 0, any generations.

    Returns:
        Those whose improvement is known (birth_fitness - fitness, both finite), in order, with
        the share of their generation that improved less, in [0, 1]; ties count half.
    """
    gains: dict[int, list[float]] = {}
    known = []
    for one in past:
        gain = _improvement(one)
        if gain is not None:
            known.append((one, gain))
            gains.setdefault(one.reference.generation, []).append(gain)
    return [(one, _share_below(gain, gains[one.reference.generation])) for one, gain in known]


def _share_below(gain: float, gains: Sequence[float]) -> float:
    below = sum(other < gain for other in gains)
    return (below + 0.5 * sum(other == gain for other in gains)) / len(gains)


def _improvement(one: Individual) -> float | None:
    if one.birth_fitness is None or one.fitness is None:
        return None
    gain = one.birth_fitness - one.fitness
    return gain if math.isfinite(gain) else None


def _name(species: str, name: str) -> str:
    """Species may share a name, such as lr, with different ranges."""
    return f"{species}.{name}"


def _is_not_about_us(record: logging.LogRecord) -> bool:
    """Users need not hear of a study in memory in every generation."""
    return _STUDY_NAME not in record.getMessage()
