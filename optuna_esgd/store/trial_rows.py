"""Optuna's rows of our trials, many in one statement, in one transaction with our own.

Optuna's methods take a transaction for every parameter, every attribute and every state. Where the
population lives in the study's own database all of it is one transaction: a trial appears
complete, with everything it says, at the moment its individual is bound to it. Values, times and
distributions become what Optuna's own models make of them. Where the population lives elsewhere,
or Optuna's tables look unlike those known here, there are no ``TrialRows``, and Optuna's methods
do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import optuna
import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial
from sqlalchemy import orm

from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.ports import Population
from optuna_esgd.store import trials
from optuna_esgd.store.engines import Database
from optuna_esgd.store.sql import SqlPopulation
from optuna_esgd.store.statements import execute_many
from optuna_esgd.store.storages import is_own_database, unwrap
from optuna_esgd.store.transactions import write

_COLUMNS = {
    "studies": "study_id study_name",
    "trials": "trial_id number study_id state datetime_start datetime_complete",
    "trial_params": "param_id trial_id param_name param_value distribution_json",
    "trial_user_attributes": "trial_user_attribute_id trial_id key value_json",
    "trial_values": "trial_value_id trial_id objective value value_type",
}
_known: WeakKeyDictionary[optuna.Study, tuple[Population, TrialRows | None]] = WeakKeyDictionary()

Describe = Callable[[Individual], FrozenTrial]


class TrialRows:
    """Writes the trials of one study.

    Args:
        database: The study's, and the population's.
        study_uuid: Which population.
        study_id: Which study.
        models: Optuna's, of the tables' rows.
    """

    def __init__(self, database: Database, study_uuid: str, study_id: int, models: Any) -> None:
        self._database = database
        self._study_uuid = study_uuid
        self._study_id = study_id
        self._models = models
        tables = models.BaseModel.metadata.tables
        self._trials = tables["trials"]
        self._params = tables["trial_params"]
        self._attributes = tables["trial_user_attributes"]
        self._inserts = [sa.insert(table) for table in (self._params, self._attributes)]
        self._insert_values = sa.insert(tables["trial_values"])
        studies = tables["studies"].c
        of_study = studies.study_id == study_id
        self._locked = sa.select(studies.study_id).where(of_study).with_for_update()
        of_study = self._trials.c.study_id == study_id
        self._count = sa.select(sa.func.count()).where(of_study)

    def show_finished(self, describe: Describe) -> int:
        """Make a complete trial for every finished individual that nobody shows.

        Args:
            describe: What its trial says.

        Returns:
            How many there were.
        """
        return write(self._database, self._show_finished, describe)

    def describe_running(self, trial_id: int, described: FrozenTrial) -> None:
        """Write the parameters and attributes of a running trial.

        Raises:
            UpdateFinishedTrialError: The trial has ended.
        """
        write(self._database, self._describe_running, trial_id, described)

    def _show_finished(self, connection: sa.Connection, describe: Describe) -> int:
        # As Optuna does: a trial's number is how many there were before it.
        self._lock_study(connection)
        individuals = trials.lock_unshown(connection, self._study_uuid)
        if not individuals:
            return 0
        described = [describe(one) for one in individuals]
        first = connection.scalar(self._count) or 0
        rows = [
            {
                "study_id": self._study_id,
                "number": number,
                "state": one.state,
                "datetime_start": one.datetime_start,
                "datetime_complete": one.datetime_complete,
            }
            for number, one in enumerate(described, start=first)
        ]
        trial_ids = self._insert_trials(connection, rows)
        self._insert_descriptions(connection, trial_ids, described)
        numbers = {one.reference: number for number, one in enumerate(individuals, start=first)}
        trials.show(connection, self._study_uuid, numbers)
        return len(individuals)

    def _lock_study(self, connection: sa.Connection) -> None:
        """Keep others from making trials until this transaction ends, as Optuna itself does."""
        if connection.scalar(self._locked) is None:
            raise KeyError(f"There is no study {self._study_id} any more.")

    def _insert_trials(
        self, connection: sa.Connection, rows: Sequence[dict[str, Any]]
    ) -> list[int]:
        """Insert trials, ordered by number; their ids in the same order."""
        number, trial_id = self._trials.c.number, self._trials.c.trial_id
        insert = sa.insert(self._trials)
        if connection.dialect.insert_executemany_returning:
            found = connection.execute(insert.returning(number, trial_id), rows)
        else:
            connection.execute(insert, rows)
            is_new = sa.and_(
                self._trials.c.study_id == self._study_id, number >= rows[0]["number"]
            )
            found = connection.execute(sa.select(number, trial_id).where(is_new))
        ids = {row.number: row.trial_id for row in found}
        return [ids[row["number"]] for row in rows]

    def _describe_running(
        self, connection: sa.Connection, trial_id: int, described: FrozenTrial
    ) -> None:
        with _session(connection) as session:
            row = self._models.TrialModel.find_or_raise_by_id(trial_id, session, for_update=True)
            if row.state.is_finished():
                raise UpdateFinishedTrialError(f"Trial {row.number} has ended: {row.state.name}.")
        # What an objective around ours has said by these names, or a commit whose answer was lost.
        for table, name, said in (
            (self._params, self._params.c.param_name, described.params),
            (self._attributes, self._attributes.c.key, described.user_attrs),
        ):
            is_same = sa.and_(table.c.trial_id == trial_id, name.in_(sorted(said)))
            connection.execute(sa.delete(table).where(is_same))
        self._insert_descriptions(connection, [trial_id], [described])

    def _insert_descriptions(
        self, connection: sa.Connection, trial_ids: Sequence[int], described: Sequence[FrozenTrial]
    ) -> None:
        """Insert what trials say: one statement for each kind of thing."""
        pairs = list(zip(trial_ids, described, strict=True))
        written: dict[int, str] = {}  # by identity: 1, 1.0 and True are equal, and written apart
        for distribution in (d for one in described for d in one.distributions.values()):
            if id(distribution) not in written:
                written[id(distribution)] = distribution_to_json(distribution)
        params = [
            {
                "trial_id": trial_id,
                "param_name": name,
                "param_value": distribution.to_internal_repr(one.params[name]),
                "distribution_json": written[id(distribution)],
            }
            for trial_id, one in pairs
            for name, distribution in one.distributions.items()
        ]
        attributes = [
            {"trial_id": trial_id, "key": name, "value_json": json.dumps(value)}
            for trial_id, one in pairs
            for name, value in one.user_attrs.items()
        ]
        to_stored = self._models.TrialValueModel.value_to_stored_repr
        values = [
            {"trial_id": trial_id, "objective": at, "value": stored, "value_type": kind}
            for trial_id, one in pairs
            for at, value in enumerate(one.values or ())
            for stored, kind in [to_stored(value)]
        ]
        for insert, rows in zip(self._inserts, (params, attributes), strict=True):
            if rows:
                execute_many(connection, insert, rows)
        if values:  # their kind is an enumeration, which SQLAlchemy knows how to write
            connection.execute(self._insert_values, values)


def find_trial_rows(study: optuna.Study, population: Population) -> TrialRows | None:
    """What writes the study's trials together with its population; None if nothing can."""
    known = _known.get(study)
    if known is None or known[0] is not population:
        known = _known[study] = (population, _find(study, population))
    return known[1]


def _find(study: optuna.Study, population: Population) -> TrialRows | None:
    storage = study._storage
    if not isinstance(population, SqlPopulation):
        return None
    if not isinstance(unwrap(storage), optuna.storages.RDBStorage):
        return None
    models = _known_models()
    if models is None or not is_own_database(storage, population.database):
        return None
    return TrialRows(population.database, population.uuid, study._study_id, models)


def _known_models() -> Any:
    """Optuna's models, if they are of the tables known here."""
    try:
        from optuna.storages._rdb import models  # noqa: PLC0415
    except ImportError:
        return None
    tables = models.BaseModel.metadata.tables
    for name, columns in _COLUMNS.items():
        if name not in tables or set(tables[name].c.keys()) != set(columns.split()):
            return None
    return models


def _session(connection: sa.Connection) -> orm.Session:
    """For Optuna's models, in our transaction: it neither commits nor ends it."""
    return orm.Session(connection, join_transaction_mode="rollback_only")
