"""Evolution without weights: the genome of an individual is its hyperparameters.

Algorithm 1 of Cui et al. 2018 with an evaluation in place of the SGD step, one individual at a
time, so that no trial waits for a generation to end. A trial that starts when n trials have
finished is

- one of the μ founders while n < μ: a Latin hypercube over the whole space;
- an offspring afterwards. Of the m best trials of all and the newest μ + λ - m others, μ survive
  by m-elitist selection; ρ of them, drawn by roulette wheel, are its parents.

Notation, on the coordinates of ``sampler.coordinates``: x_p = parent p's value; s = standard
deviation of the survivors' values; k = n // μ, the generation. An offspring's number is

    x = (1/ρ) Σ_p x_p + ε,    ε ~ N(0, (2s/√μ)² + σ_k²)    (Cui et al. 2018, Eq. 9),

reflected at the bounds; σ_k reaches at least half of a grid point's cell. The part 2s/√μ is a
deviation from the paper: weights can be trained after their birth, hyperparameters cannot, so
mutation has to carry the search. Averaging takes away half of the variance (ρ = 2), and mutation
gives some of it back: all of it for μ = 8, half for μ = 16, since a small population that
contracted as fast as a large one would stand still before it arrives. (Measured: 2/√μ is within
noise of the best factor for μ = 2, 4, 8, 16 and 32.) Choices come from one of the parents, or
anew.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.evolution.annealing import mutation_scale
from optuna_esgd.evolution.mating import draw_parents, roulette_weights
from optuna_esgd.evolution.randomness import derive_seed, stream
from optuna_esgd.evolution.selection import select_survivors
from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Range, Value
from optuna_esgd.sampler.coordinates import cell_width, reflect, to_value
from optuna_esgd.sampler.finished_trials import Candidates, FinishedTrial

# A trial has several numbers and each of them mutates anyway, so few are drawn anew.
_NUMBER_RESAMPLING_SHARE = 0.1
_UNIFORM_SPREAD = 1 / math.sqrt(12)
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Founder:
    """A trial among the first: spread evenly over the whole space.

    Of each μ consecutive trials, every one has another μ-th of each parameter's range.
    """

    configuration: Configuration
    number: int

    def value(self, name: str, range_: Range) -> Value:
        """Its value of one parameter."""
        seed, mu = self.configuration.seed, self.configuration.population_size
        block, place = divmod(self.number, mu)
        part = stream(seed, "founders", block, name).permutation(mu)[place]
        rng = stream(seed, self.number, name, "founder")
        return to_value(range_, (part + rng.random()) / mu)


@dataclass(frozen=True)
class Offspring:
    """A trial bred from finished ones.

    Attributes:
        configuration: The run's settings.
        number: The trial's number.
        survivors: μ finished trials, the elites first.
        parents: Positions of the ρ parents among the survivors.
        generation: k, from 0.
    """

    configuration: Configuration
    number: int
    survivors: tuple[FinishedTrial, ...]
    parents: tuple[int, ...]
    generation: int

    def value(self, name: str, range_: Range) -> Value:
        """Its value of one parameter."""
        if isinstance(range_, Choices):
            return self._choose(name, range_)
        pool = {
            index: coordinate
            for index, one in enumerate(self.survivors)
            if (coordinate := one.coordinate(name, range_)) is not None
        }
        if self._is_drawn_anew(pool, name, _NUMBER_RESAMPLING_SHARE):
            return to_value(range_, self._uniform(name, "value"))
        inherited = [pool[index] for index in self._parents_among(list(pool), name)]
        deviation = self._mutation_scale(range_, list(pool.values()))
        mutation = deviation * _NORMAL.inv_cdf(self._uniform(name, "value"))
        return to_value(range_, reflect(sum(inherited) / len(inherited) + mutation))

    def _choose(self, name: str, range_: Choices) -> Value:
        having = [index for index, one in enumerate(self.survivors) if one.has(name, range_)]
        if self._is_drawn_anew(having, name, 1.0):
            return to_value(range_, self._uniform(name, "value"))
        parents = self._parents_among(having, name)
        parent = parents[int(self._uniform(name, "parent") * len(parents))]
        value: Value = self.survivors[parent].params[name]
        return value

    def _is_drawn_anew(self, having: Collection[int], name: str, share: float) -> bool:
        """Whether nothing is inherited: by chance, or because no survivor has the parameter."""
        probability = self.configuration.resample_probability * share
        return not having or self._uniform(name, "resample") < probability

    def _parents_among(self, having: Sequence[int], name: str) -> list[int]:
        """The parents that have a (conditional) parameter; if none has, another survivor that has.

        Args:
            having: Positions of the survivors that have it; not empty.
            name: The parameter.
        """
        parents = [index for index in self.parents if index in having]
        if parents:
            return parents
        fitness = [self.survivors[index].fitness for index in having]
        wheel = roulette_weights(fitness, self.configuration.roulette)
        rng = stream(self.configuration.seed, self.number, name, "parent")
        (drawn,) = draw_parents(wheel, n_parents=1, rng=rng)
        return [having[drawn]]

    def _mutation_scale(self, range_: FloatRange | IntRange, coordinates: list[float]) -> float:
        """Standard deviation of ε, from the coordinates of the survivors."""
        n = len(coordinates)
        mean = sum(coordinates) / n
        spread = (
            math.dist(coordinates, [mean] * n) / math.sqrt(n - 1) if n > 1 else _UNIFORM_SPREAD
        )
        share = 2.0 / math.sqrt(self.configuration.population_size)
        sigma = mutation_scale(self.configuration.mutation_scale, self.generation)
        return math.hypot(share * spread, max(sigma, cell_width(range_) / 2))

    def _uniform(self, name: str, purpose: str) -> float:
        """A number inside (0, 1) that depends on seed, trial, parameter and purpose only.

        A whole random stream per number, as weights need it, takes five times as long.
        """
        bits = derive_seed(self.configuration.seed, self.number, name, purpose) >> 11
        return (bits + 0.5) / 2**52


def next_birth(
    configuration: Configuration, number: int, candidates: Candidates
) -> Founder | Offspring:
    """Decide what the trial of this number is, from the trials that have finished.

    Args:
        configuration: The run's settings.
        number: The trial's number, which addresses its random streams.
        candidates: Who can survive.
    """
    mu = configuration.population_size
    if candidates.n_finished < mu:
        return Founder(configuration, number)
    rng = stream(configuration.seed, number, "parents")
    chosen = select_survivors(
        [one.fitness for one in candidates.trials],
        n_survivors=mu,
        n_elites=configuration.n_elites,
        rng=rng,
    )
    survivors = tuple(candidates.trials[index] for index in chosen)
    wheel = roulette_weights([one.fitness for one in survivors], configuration.roulette)
    # Whoever diverged or is infeasible has no sector, and is no parent while there are others.
    n_with_sector = int(np.count_nonzero(wheel))
    n_parents = min(configuration.n_parents, n_with_sector) or configuration.n_parents
    parents = draw_parents(wheel, n_parents=n_parents, rng=rng)
    return Offspring(
        configuration=configuration,
        number=number,
        survivors=survivors,
        parents=parents,
        generation=candidates.n_finished // mu,
    )
