"""Small histories by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from hypothesis import strategies as st

from optuna_esgd.engine.individual import Chronicle, Individual, Reference, Span
from optuna_esgd.visualization.history import History, history_of


def one(
    generation: int, number: int, fitness: float | None, *parents: int, **values: Any
) -> Individual:
    """An individual of round 0 whose parents are numbers of the generation before."""
    birth = "recombination" if len(parents) > 1 else "elite" if parents else "founder"
    return Individual(
        reference=Reference(generation, 0, number),
        parents=tuple(Reference(generation - 1, 0, parent) for parent in parents),
        fitness=fitness,
        **{
            "birth": birth,
            "species": "SGD",
            "trial_number": 10 * generation + number,
            "n_epochs": 2,
            **values,
        },
    )


def history(
    *individuals: Individual,
    spans: Sequence[Span] = (),
    configuration: Mapping[str, Any] | None = None,
    name: str = "study",
    **settings: Any,
) -> History:
    """What ``read_history`` would make of them."""
    numbers = {
        "maximize": False,
        "population_size": 1 + max((i.reference.number for i in individuals), default=0),
        "n_elites": 1,
        "back_off": "step",
    }
    chronicle = Chronicle(individuals=individuals, spans=tuple(spans))
    return history_of(chronicle, {**numbers, **(configuration or {}), **settings}, name)


NOTHING = history()


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Any lineage of up to five generations, the last one perhaps not whole.

    Hypothesis draws the shape; what fills it comes from one seed, which is much faster.
    """
    mu = draw(st.integers(1, 5))
    n_generations = draw(st.integers(1, 5))
    n_finished = mu * (n_generations - 1) + draw(st.integers(0, mu))
    rng = draw(st.randoms(use_true_random=True))
    individuals = [
        _any_individual(rng, at // mu, at % mu, mu, is_finished=at < n_finished)
        for at in range(mu * n_generations)
    ]
    return history(
        *individuals,
        population_size=mu,
        n_elites=draw(st.integers(1, mu)),
        maximize=draw(st.booleans()),
        back_off=draw(st.sampled_from(["step", "best"])),
    )


def _any_individual(
    rng: Random, generation: int, number: int, mu: int, *, is_finished: bool
) -> Individual:
    fitness = [0.5, 1.0, -1.0, 0.0, 1e300, -1e300, math.inf, rng.gauss(0, 3)]
    values = [0.5, rng.random(), 3, True, None, "text"]
    return one(
        generation,
        number,
        rng.choice(fitness) if is_finished else None,
        *(rng.choices(range(mu), k=rng.randint(1, 3)) if generation else []),
        species=rng.choice(["Adam", "SGD", ""]),
        birth_fitness=rng.choice([None, *fitness]),
        hyperparameters={name: rng.choice(values) for name in rng.sample(["lr", "b", "c"], 2)},
        n_back_offs=rng.randint(0, 2),
        trial_number=rng.choice([None, 10 * generation + number]),
    )
