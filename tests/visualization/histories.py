"""Small histories by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    """Any lineage of up to five generations, the last one perhaps not whole."""
    mu = draw(st.integers(1, 5))
    n_generations = draw(st.integers(1, 5))
    fitness = st.sampled_from([0.5, 1.0, 2.0, -1.0, 0.0, math.inf]) | st.floats(-10, 10)
    numbers = st.integers(0, mu - 1)
    individuals = []
    for generation in range(n_generations):
        is_last = generation == n_generations - 1
        n_finished = draw(st.integers(0, mu)) if is_last else mu
        for number in range(mu):
            parents = draw(st.lists(numbers, min_size=1, max_size=3)) if generation else []
            individuals.append(
                one(
                    generation,
                    number,
                    draw(fitness) if number < n_finished else None,
                    *parents,
                    species=draw(st.sampled_from(["Adam", "SGD", ""])),
                    birth_fitness=draw(st.none() | fitness),
                    hyperparameters=draw(
                        st.dictionaries(
                            st.sampled_from(["lr", "beta", "kind"]),
                            st.floats(0, 1) | st.booleans() | st.none() | st.integers(0, 9),
                        )
                    ),
                    n_back_offs=draw(st.integers(0, 2)),
                    trial_number=draw(st.none() | st.just(10 * generation + number)),
                )
            )
    return history(
        *individuals,
        population_size=mu,
        n_elites=draw(st.integers(1, mu)),
        maximize=draw(st.booleans()),
        back_off=draw(st.sampled_from(["step", "best"])),
    )
