"""The contract of ``engine.ports.Population``."""

from __future__ import annotations

import threading

import pytest

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.ports import Population
from optuna_esgd.store.verification import verify
from optuna_esgd.testing.checkpoints import CheckpointContract
from optuna_esgd.testing.chronicle import ChronicleContract
from optuna_esgd.testing.claims import ClaimContract
from optuna_esgd.testing.collection import CollectionContract
from optuna_esgd.testing.examples import example_configuration
from optuna_esgd.testing.outcomes import OutcomeContract
from optuna_esgd.testing.places import PlaceContract
from optuna_esgd.testing.plans import PlanContract
from optuna_esgd.testing.runs import run
from optuna_esgd.testing.trials import TrialContract
from optuna_esgd.testing.weights import WeightContract


class PopulationContract(
    PlanContract,
    PlaceContract,
    ClaimContract,
    CheckpointContract,
    OutcomeContract,
    TrialContract,
    WeightContract,
    CollectionContract,
    ChronicleContract,
):
    """Every promise of the port, for whoever implements it.

    Subclass it and override the fixture ``population``; override ``corrupt`` as well where
    stored bytes can be damaged.
    """

    @pytest.fixture
    def configuration(self) -> Configuration:
        """A few generations, for the whole run."""
        return example_configuration(n_generations=4)

    def test_whole_run_is_true_and_bounded(
        self, population: Population, configuration: Configuration
    ) -> None:
        """Workers in threads; afterwards everything the population says is recomputed."""
        n_workers = 2
        workers = [
            threading.Thread(target=run, args=(population, configuration))
            for _ in range(n_workers)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert verify(population, configuration) == []
        assert population.facts().generation == 3
        population.collect_garbage()
        size = configuration.population_size
        assert population.stored_bytes() <= (2 * size + 1) * 1000 + 2 * size * 100
        certificates = population.certificates()
        assert sorted(certificates) == [1, 2, 3]
