"""The studies of one database, also when its file is deleted and made again meanwhile."""

from __future__ import annotations

import threading
from typing import NamedTuple

import optuna
import sqlalchemy as sa

from optuna_esgd.errors import StorageError, StudyError
from optuna_esgd.store import POPULATION_ATTRIBUTE
from optuna_esgd.store.engines import Database, describe, open_database
from optuna_esgd.store.storages import open_storage
from optuna_esgd.store.transactions import read


class Listing(NamedTuple):
    """What is told of a study in a list.

    Attributes:
        id: Optuna's; SQLite gives that of a deleted study to the next one.
        name: As the user gave it: any text.
        population: Which population the study has, as stored; None if it has none.
        n_trials: How many trials are complete.
    """

    id: int
    name: str
    population: str | None
    n_trials: int


class Studies:
    """Reads studies; nothing is written.

    Args:
        url: Database of the studies.
        store: Database of the weights; None if it is the same.

    Raises:
        StorageError: The database cannot be reached, or is of another version.
    """

    def __init__(self, url: str, store: str | None = None) -> None:
        self.store = store
        self._url = url
        self._lock = threading.Lock()
        self._opened: tuple[Database, optuna.storages.RDBStorage] | None = None
        self.storage()

    def storage(self) -> optuna.storages.RDBStorage:
        """Optuna's storage; another one if the file at this address has become another."""
        with self._lock:
            database = open_database(self._url, create=False)
            if self._opened is None or self._opened[0] is not database:
                storage = open_storage(self._url)
                if self._opened is not None:
                    self._opened[1].engine.dispose()
                self._opened = database, storage
            return self._opened[1]

    def list(self) -> tuple[Listing, ...]:
        """All studies, by id."""
        self.storage()  # its tables are there
        return read(open_database(self._url, create=False), _list)

    def load(self, name: str) -> optuna.Study:
        """Load a study of this name.

        Raises:
            StudyError: There is none.
            StorageError: The database cannot be reached.
        """
        storage = self.storage()
        try:
            if "\0" not in name:  # which databases do not take for text
                return optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            pass
        except (sa.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            place = describe(storage.engine.url)
            raise StorageError(f"Optuna cannot read {place}: {type(error).__name__}.") from None
        raise StudyError(f"There is no study {name!r} in this database.")


def _list(connection: sa.Connection) -> tuple[Listing, ...]:
    # Three columns of Optuna's tables; reading studies its own way reads all their attributes.
    studies = sa.table("studies", sa.column("study_id"), sa.column("study_name"))
    trials = sa.table("trials", sa.column("study_id"), sa.column("state"))
    attributes = sa.table(
        "study_user_attributes",
        sa.column("study_id"),
        sa.column("key"),
        sa.column("value_json"),
    )
    population = (
        sa.select(attributes.c.value_json)
        .where(attributes.c.study_id == studies.c.study_id)
        .where(attributes.c.key == POPULATION_ATTRIBUTE)
        .scalar_subquery()
    )
    n_trials = (
        sa.select(sa.func.count())
        .select_from(trials)
        .where(trials.c.study_id == studies.c.study_id)
        .where(trials.c.state == sa.literal_column("'COMPLETE'"))  # an enumeration, no text
        .scalar_subquery()
    )
    rows = connection.execute(
        sa.select(studies.c.study_id, studies.c.study_name, population, n_trials).order_by(
            studies.c.study_id
        )
    )
    return tuple(Listing(*row) for row in rows)
