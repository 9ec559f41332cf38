"""Connections that break, at every statement and commit, and servers that crash under load."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.ports import Population
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.store.verification import verify
from optuna_esgd.testing.examples import example_configuration
from optuna_esgd.testing.runs import run
from tests.databases import Databases
from tests.faults.cuts import cutting
from tests.faults.servers import private_server
from tests.store.populations import make_population, reopen

_CONFIGURATION = example_configuration(n_generations=2)
_N_CRASHES = 3


def undisturbed(population: Population) -> tuple[Individual, ...]:
    """What memory makes of it: a run's bits depend on the population's name only."""
    memory = MemoryPopulation(_CONFIGURATION.to_json(), uuid=population.uuid)
    run(memory, _CONFIGURATION)
    return memory.individuals()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_cut_connection_goes_unnoticed(kind: str, databases: Databases) -> None:
    """Wherever it is cut; the transaction is run again, also if only its answer was lost."""
    url = databases.shared(kind)
    with cutting(url) as cuts:
        run(make_population(url, _CONFIGURATION.to_json()), _CONFIGURATION)
    for point in range(cuts.n_points):
        population = make_population(url, _CONFIGURATION.to_json())
        with cutting(url, point):
            run(population, _CONFIGURATION)
        assert population.individuals() == undisturbed(population), point
        assert verify(population) == []
