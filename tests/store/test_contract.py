"""Every kind of store passes the published contract."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Reference
from optuna_esgd.engine.ports import Population
from optuna_esgd.store.memory import MemoryPopulation
from optuna_esgd.testing import PopulationContract
from tests.databases import Databases
from tests.store.populations import damage, make_population


class TestMemoryPopulation(PopulationContract):
    @pytest.fixture
    def population(self, configuration: Configuration) -> Population:
        return MemoryPopulation(configuration.to_json())

    def corrupt(self, population: Population, reference: Reference) -> None:
        assert isinstance(population, MemoryPopulation)
        listing = population._snapshots[population._weights[reference]]
        digest = listing.links[0].chunk
        payload = bytearray(population._chunks[digest])
        payload[7] ^= 1
        population._chunks[digest] = bytes(payload)


class _SqlContract(PopulationContract):
    def corrupt(self, population: Population, reference: Reference) -> None:
        damage(population, reference)


class TestSqlite(_SqlContract):
    @pytest.fixture
    def population(self, configuration: Configuration, tmp_path: Path) -> Population:
        url = f"sqlite:///{tmp_path / 'esgd.db'}"
        return make_population(url, configuration.to_json())


class TestPostgresql(_SqlContract):
    @pytest.fixture
    def population(self, configuration: Configuration, databases: Databases) -> Population:
        return make_population(databases.reused("postgresql"), configuration.to_json())


class TestPymysql(_SqlContract):
    @pytest.fixture
    def population(self, configuration: Configuration, databases: Databases) -> Population:
        return make_population(databases.reused("mysql"), configuration.to_json())


@pytest.mark.skipif(
    importlib.util.find_spec("MySQLdb") is None, reason="mysqlclient is not installed"
)
class TestMysqlclient(_SqlContract):
    @pytest.fixture
    def population(self, configuration: Configuration, databases: Databases) -> Population:
        url = databases.reused("mysql").replace("mysql+pymysql:", "mysql:")
        return make_population(url, configuration.to_json())
