"""Everything the figures need of a study, read once, in columns.

Notation: n individuals have trained to the end, in generations 0 .. G - 1. A *row* is a position
among them, ordered by (generation, number).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import FloatDistribution, IntDistribution

from optuna_esgd.engine.individual import Birth, Chronicle, Individual, Reference, Span
from optuna_esgd.evolution.space import Value
from optuna_esgd.store.opening import open_results

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]

_Numbers = FloatDistribution | IntDistribution

BIRTHS: tuple[Birth, ...] = get_args(Birth)


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """A study's population as columns; finished individuals only.

    Attributes:
        study_name: As the user gave it.
        maximize: Direction of the study.
        population_size: μ.
        n_elites: m.
        backs_off_each_epoch: Whether every epoch can be taken back, or an SGD step only once.
        is_truncating: Whether survivors that are no elites are copies of the best, not lucky ones.
        species: Names of all species, sorted; "" where the objective names none.
        generation: (n,)
        number: (n,) within its generation.
        trial: (n,) the trial that shows it, -1 if none does yet.
        species_index: (n,) into ``species``.
        birth: (n,) into ``BIRTHS``.
        fitness: (n,) at the end; lower is better, inf marks a diverged one.
        birth_fitness: (n,) likewise at birth; NaN where it is not known.
        n_back_offs: (n,)
        n_epochs: (n,)
        hyperparameters: n mappings.
        is_log: Whether a hyperparameter is searched on a log scale, by name, where it is known.
        first_parent: (n,) row of the individual whose species and hyperparameters it inherited;
            -1 for founders.
        child: (edges,) row of an individual, once per parent it has.
        parent: (edges,) row of that parent: of the generation before, or, asynchronously, of any.
        weight: (edges,) its part in the average the child was born as; 1 in all per child.
        spans: Who worked on what, and when.
        best_fitness: Lowest of all, stored offspring included; inf while there is none.
    """

    study_name: str
    maximize: bool
    population_size: int
    n_elites: int
    backs_off_each_epoch: bool
    is_truncating: bool
    species: tuple[str, ...]
    generation: Integers
    number: Integers
    trial: Integers
    species_index: Integers
    birth: Integers
    fitness: Floats
    birth_fitness: Floats
    n_back_offs: Integers
    n_epochs: Integers
    hyperparameters: tuple[Mapping[str, Value], ...]
    is_log: Mapping[str, bool]
    first_parent: Integers
    child: Integers
    parent: Integers
    weight: Floats
    spans: tuple[Span, ...]
    best_fitness: float

    @property
    def n_individuals(self) -> int:
        """How many have finished."""
        return len(self.fitness)

    @property
    def n_generations(self) -> int:
        """G: how many generations have somebody who has finished."""
        return int(self.generation[-1]) + 1 if self.n_individuals else 0

    @cached_property
    def starts(self) -> Integers:
        """(G + 1,) row at which each generation begins, and n."""
        return np.searchsorted(self.generation, np.arange(self.n_generations + 1))

    @property
    def last_complete(self) -> int:
        """The latest generation in which everyone has finished; the first if there is none."""
        complete = np.flatnonzero(np.diff(self.starts) >= self.population_size)
        return int(complete[-1]) if len(complete) else 0

    @cached_property
    def rank(self) -> Integers:
        """(n,) place by fitness within the generation, from 0 = best; ties by number."""
        order = np.lexsort((self.number, self.fitness, self.generation))
        rank = np.empty(self.n_individuals, dtype=np.int64)
        rank[order] = np.arange(self.n_individuals) - self.starts[self.generation[order]]
        return rank

    @property
    def is_elite(self) -> Booleans:
        """(n,) whether among the m best of its generation."""
        return self.rank < self.n_elites

    @property
    def n_chances(self) -> Integers:
        """(n,) how often each could have backed off: after every epoch, or once at the end."""
        return self.n_epochs if self.backs_off_each_epoch else np.sign(self.n_epochs)

    @property
    def best(self) -> int | None:
        """Row with the lowest fitness, the earliest among equals; None while there is none."""
        return int(np.argmin(self.fitness)) if self.n_individuals else None

    def rows(self, generation: int) -> slice:
        """The rows of one generation."""
        return slice(int(self.starts[generation]), int(self.starts[generation + 1]))

    def shown(self, fitness: Floats) -> Floats:
        """Fitness as the user's values: in the study's direction."""
        return -fitness if self.maximize else fitness


def read_history(study: optuna.Study, *, store: str | None = None) -> History:
    """Read a study's population once: no weights, one snapshot, and the trials of a few founders.

    Args:
        study: One whose population trains weights; workers may go on writing.
        store: URL of the database for weights, if it is not the study's own.

    Raises:
        StudyError: The study has no population.
        StorageError: The database cannot be reached, or has tables of another version.
    """
    population = open_results(study, store)
    chronicle = population.chronicle()
    return history_of(
        chronicle, population.configuration, study.study_name, find_scales(study, chronicle)
    )


def find_scales(study: optuna.Study, chronicle: Chronicle) -> dict[str, bool]:
    """Whether numbers are searched on a log scale, by name, as the first trials with them say."""
    first: dict[str, int] = {}
    for one in chronicle.individuals:
        if one.trial_number is not None and one.fitness is not None:
            first = dict.fromkeys(one.hyperparameters, one.trial_number) | first
    storage, is_log = study._storage, {}
    for number in set(first.values()):  # not all trials of the study, which may be many
        try:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        except KeyError:  # a population that is shown in a study without its trials
            continue
        for name, distribution in storage.get_trial(trial_id).distributions.items():
            if first.get(name) == number and isinstance(distribution, _Numbers):
                is_log[name] = distribution.log
    return is_log


def history_of(
    chronicle: Chronicle,
    configuration: Mapping[str, Any],
    study_name: str,
    is_log: Mapping[str, bool] = {},
) -> History:
    """Turn a chronicle, and what ``find_scales`` says, into columns."""
    finished = [
        one
        for one in chronicle.individuals
        if one.fitness is not None and one.reference.round == 0
    ]
    ends = [one.fitness_or_inf for one in chronicle.individuals]
    species = tuple(sorted({one.species for one in finished}))
    index = {name: position for position, name in enumerate(species)}
    return History(
        study_name=study_name,
        maximize=bool(configuration["maximize"]),
        population_size=int(configuration["population_size"]),
        n_elites=int(configuration["n_elites"]),
        backs_off_each_epoch=configuration["back_off"] == "step",
        is_truncating=configuration.get("selection") == "truncation",
        species=species,
        generation=_integers([one.reference.generation for one in finished]),
        number=_integers([one.reference.number for one in finished]),
        trial=_integers(
            [-1 if one.trial_number is None else one.trial_number for one in finished]
        ),
        species_index=_integers([index[one.species] for one in finished]),
        birth=_integers([BIRTHS.index(one.birth) for one in finished]),
        fitness=_floats([one.fitness for one in finished]),
        birth_fitness=_floats([one.birth_fitness for one in finished]),
        n_back_offs=_integers([one.n_back_offs for one in finished]),
        n_epochs=_integers([one.n_epochs for one in finished]),
        hyperparameters=tuple(one.hyperparameters for one in finished),
        is_log=is_log,
        **_descent(finished, chronicle.individuals),
        spans=chronicle.spans,
        best_fitness=min(ends, default=math.inf),
    )


def _descent(
    finished: Sequence[Individual], everyone: Sequence[Individual]
) -> dict[str, npt.NDArray[Any]]:
    """Who descends from which rows, and how much: parents that never trained are seen through."""
    row = {one.reference: position for position, one in enumerate(finished)}
    bred = {one.reference: one for one in everyone if one.reference.round > 0}
    first, child, parent, weight = [], [], [], []
    for position, one in enumerate(finished):
        ancestor = one.first_parent
        while ancestor is not None and ancestor.round > 0:
            ancestor = bred[ancestor].first_parent
        first.append(-1 if ancestor is None else row[ancestor])
        for reference, share in _shares(one.parents, bred):
            child.append(position)
            parent.append(row[reference])
            weight.append(share)
    return {
        "first_parent": _integers(first),
        "child": _integers(child),
        "parent": _integers(parent),
        "weight": _floats(weight),
    }


def _shares(
    parents: Sequence[Reference], bred: Mapping[Reference, Individual]
) -> list[tuple[Reference, float]]:
    """The trained individuals an average of these parents is made of, with their parts."""
    found = []
    for reference, equal in groupby(sorted(parents)):
        share = len(list(equal)) / len(parents)
        if reference.round == 0:
            found.append((reference, share))
        else:
            further = _shares(bred[reference].parents, bred)
            found += [(one, share * part) for one, part in further]
    return found


def _integers(values: Sequence[int]) -> Integers:
    return np.array(values, dtype=np.int64)


def _floats(values: Sequence[float | None]) -> Floats:
    return np.array(values, dtype=np.float64)  # None becomes NaN
