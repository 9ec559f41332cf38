"""Others who lock what a worker needs, for a while or for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from optuna_esgd.store import engines
from optuna_esgd.store.engines import open_database
from optuna_esgd.store.transactions import write
from optuna_esgd.trainer.task import Epoch
from tests.databases import Databases
from tests.faults.small_run import Parabola, open_study, result, run
from tests.store.populations import make_population

_LOCKED_SECONDS = 1.5
_LOCKS = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": "LOCK TABLE esgd_slot, esgd_individual, trials IN ACCESS EXCLUSIVE MODE",
    "mysql": "SELECT * FROM esgd_slot, trials FOR UPDATE",
}


@pytest.fixture
def timers() -> Iterator[list[threading.Timer]]:
    started: list[threading.Timer] = []
    yield started
    for timer in started:
        timer.join()


@pytest.mark.slow
def test_locks_are_waited_for(
    database_url: str, undisturbed: list[tuple[object, ...]], timers: list[threading.Timer]
) -> None:
    """In every generation somebody locks everything while an individual trains."""
    engine = sa.create_engine(database_url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")

    def lock(epoch: Epoch) -> None:
        if epoch.individual == 0:
            connection = engine.raw_connection()
            cursor = connection.cursor()
            if engine.dialect.name != "sqlite":
                cursor.execute("BEGIN")
            cursor.execute(_LOCKS[engine.dialect.name])
            timers.append(threading.Timer(_LOCKED_SECONDS, connection.close))
            timers[-1].start()

    run(database_url, task=Parabola(lock))
    assert len(timers) == 2
    assert result(open_study(database_url)) == undisturbed


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_transaction_left_alone_is_ended(
    kind: str, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker was stopped, or its machine is gone, while it held a lock."""
    monkeypatch.setattr(engines, "_IDLE_TRANSACTION_SECONDS", 1)
    url = databases.shared(kind)
    engines.close_databases()
    population = make_population(url, {})
    database = open_database(url)
    if kind == "mysql" and not _is_mariadb(database.engine):
        pytest.skip("MySQL has no limit for transactions in which nothing happens")
    statement = sa.text("UPDATE esgd_study SET layout = 'x' WHERE uuid = :uuid")
    mine = {"uuid": population.uuid}
    abandoned = database.engine.connect()
    abandoned.execute(statement, mine)
    write(database, lambda connection: connection.execute(statement, mine).rowcount)
    with pytest.raises(sa.exc.DBAPIError):
        abandoned.execute(statement, mine)
    abandoned.close()
    engines.close_databases()


def _is_mariadb(engine: sa.Engine) -> bool:
    with engine.connect():
        return bool(getattr(engine.dialect, "is_mariadb", False))
