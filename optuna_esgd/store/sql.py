"""A population in SQL; the statements are in ``claims``, ``weights`` and ``collection``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from optuna_esgd.engine.individual import (
    Claim,
    Facts,
    Individual,
    Plan,
    Reference,
    Slot,
    SlotKey,
)
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.errors import StorageError, StudyError
from optuna_esgd.store import claims, collection, weights
from optuna_esgd.store import outcomes as rules
from optuna_esgd.store.chunks import Chunk, PackedSnapshot, pack
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.engines import Database
from optuna_esgd.store.rows import (
    WORKER_LENGTH,
    Values,
    certificate_of,
    has_key,
    individual_of,
    individual_values,
    outcome_values,
    plan_values,
    slot_columns,
    slot_of,
    slot_values,
)
from optuna_esgd.store.tables import individual, plan, slot, study
from optuna_esgd.store.transactions import read, write

_MOST_UPLOADS = 20


class SqlPopulation:
    """Implements ``engine.ports.Population`` on SQLite, PostgreSQL, MySQL and MariaDB.

    Args:
        database: Where; its tables exist.
        uuid: Which population.
        configuration: As stored with it.
    """

    def __init__(self, database: Database, uuid: str, configuration: Mapping[str, object]) -> None:
        self._database = database
        self._uuid = uuid
        self._configuration = dict(configuration)

    @property
    def uuid(self) -> str:
        """The population's own name."""
        return self._uuid

    @property
    def configuration(self) -> Mapping[str, object]:
        """What the population was made with."""
        return dict(self._configuration)

    @property
    def database(self) -> Database:
        """Where it lives."""
        return self._database

    def facts(self) -> Facts:
        """Read the latest generation and the slots of its latest round, in one snapshot."""
        return read(self._database, self._facts)

    def commit_plan(self, plan: Plan) -> bool:
        """Store a plan with its individuals and free slots; False if another was first."""
        return write(self._database, self._commit_plan, plan)

    def claim(self, key: SlotKey, *, worker: str, lease_seconds: float) -> Claim | None:
        """Take a claimable slot, or None."""
        worker = rules.readable(worker)[:WORKER_LENGTH]
        made: Slot | None = None

        def body(connection: sa.Connection) -> Slot | None:
            nonlocal made
            if not claims.is_claimed_by(connection, self._uuid, made, worker=worker):
                made = claims.claim(
                    connection, self._uuid, key, worker=worker, lease_seconds=lease_seconds
                )
            return made

        taken = write(self._database, body)
        return None if taken is None else Claim(slot=taken, attempt=taken.attempt, worker=worker)

    def renew(self, claim: Claim, *, lease_seconds: float) -> bool:
        """Prolong the lease; False if the claim is lost."""
        return write(self._database, claims.renew, self._uuid, claim, lease_seconds=lease_seconds)

    def release(self, claim: Claim, *, failure: str | None = None) -> bool:
        """Give the slot back; False if the claim is lost."""
        text = None if failure is None else rules.readable(failure)
        return write(self._database, claims.release, self._uuid, claim, failure=text)

    def finish(self, claim: Claim, outcomes: Sequence[Outcome]) -> bool:
        """Store weights, fitness and the finished slot together; False if the claim is lost."""
        rules.check_outcomes(claim, outcomes)
        ended = [_Ended(claim, outcome) for outcome in outcomes]
        if not read(self._database, claims.is_held, self._uuid, claim):
            return read(self._database, claims.was_finished_by, self._uuid, claim)
        chunks = [chunk for one in ended for chunk in one.chunks]
        for _ in range(_MOST_UPLOADS):
            if not weights.are_small(chunks):
                weights.upload(self._database, chunks)
            is_done = write(self._database, self._finish, claim, ended)
            if is_done is not None:
                return is_done
        raise StorageError(
            f"The weights of {claim.slot.key} were collected {_MOST_UPLOADS} times before they "
            "could be used. Collect garbage less often."
        )

    def slot_failure(self, key: SlotKey) -> str:
        """The traceback of the slot's last failure, "" if there was none."""
        query = sa.select(slot.c.failure).where(has_key(slot, self._uuid, key))
        return read(self._database, lambda connection: connection.scalar(query)) or ""

    def assign_trial(self, trial_number: int) -> Individual | None:
        """Give the first finished individual without a trial this trial."""
        return write(self._database, self._assign, trial_number)

    def unassign_trial(self, trial_number: int) -> None:
        """Let another trial show the individual that this one could not."""
        shown = sa.and_(
            individual.c.study_uuid == self._uuid, individual.c.trial_number == trial_number
        )
        statement = sa.update(individual).where(shown).values(trial_number=None)
        write(self._database, lambda connection: connection.execute(statement).rowcount)

    def bind_trial(self, reference: Reference, trial_number: int) -> bool:
        """Give one individual this trial; False if it, or the trial, has another one."""
        return write(self._database, self._bind, reference, trial_number)

    def read_weights(self, reference: Reference) -> Snapshot:
        """Read an individual's final weights."""
        owner = f"the weights of individual {reference}"

        def body(connection: sa.Connection) -> Snapshot:
            row = connection.execute(self._individuals(*reference)).one_or_none()
            if row is None or row.weights is None:
                raise rules.weights_not_found(
                    reference, None if row is None else individual_of(row)
                )
            return weights.read_snapshot(connection, row.weights, owner)

        return read(self._database, body)

    def read_optimizer_state(self, reference: Reference) -> Snapshot | None:
        """Read an individual's optimizer state; None if it has none."""
        owner = f"the optimizer state of individual {reference}"

        def body(connection: sa.Connection) -> Snapshot | None:
            digest = connection.scalar(
                sa.select(individual.c.optimizer_state).where(
                    has_key(individual, self._uuid, reference)
                )
            )
            return None if digest is None else weights.read_snapshot(connection, digest, owner)

        return read(self._database, body)

    def individuals(self, *, generation: int | None = None) -> tuple[Individual, ...]:
        """All individuals (of one generation), ordered by (generation, round, number)."""
        query = self._individuals() if generation is None else self._individuals(generation)
        return read(self._database, lambda c: tuple(map(individual_of, c.execute(query))))

    def individual_of_trial(self, trial_number: int) -> Individual | None:
        """The individual a trial shows."""
        return read(self._database, self._of_trial, trial_number)

    def best(self) -> Individual | None:
        """The stored individual with the lowest fitness; the earliest among equals."""
        return read(self._database, collection.best, self._uuid)

    def certificates(self) -> dict[int, tuple[float, ...]]:
        """Generation -> the certificate stored with its round-0 plan."""
        query = (
            sa.select(plan.c.generation, plan.c.certificate)
            .where(plan.c.study_uuid == self._uuid, plan.c.round == 0)
            .order_by(plan.c.generation)
        )
        rows = read(self._database, lambda connection: connection.execute(query).all())
        found = {row.generation: certificate_of(row.certificate) for row in rows}
        return {generation: means for generation, means in found.items() if means}

    def slots(self, *, generation: int | None = None) -> tuple[Slot, ...]:
        """All slots (of one generation), ordered by key."""
        key = () if generation is None else (generation,)
        return read(self._database, self._slots, *key)

    def pin(self, reference: Reference, *, pinned: bool = True) -> None:
        """Keep an individual's weights for good, or no longer."""
        condition = has_key(individual, self._uuid, reference)

        def body(connection: sa.Connection) -> bool:
            connection.execute(sa.update(individual).where(condition).values(pinned=pinned))
            return connection.scalar(sa.select(individual.c.pinned).where(condition)) is not None

        if not write(self._database, body):
            raise rules.weights_not_found(reference, None)

    def collect_garbage(self, *, grace_seconds: float = collection.GRACE_SECONDS) -> int:
        """Delete what nothing needs any more; returns the payload bytes freed.

        Args:
            grace_seconds: Chunks that were uploaded and never used are kept this long: a writer
                may be about to. With 0 it finds out, and uploads them again.
        """
        return collection.collect(self._database, self._uuid, grace_seconds=grace_seconds)

    def stored_bytes(self) -> int:
        """Payload bytes now stored for this population, each chunk counted once."""
        return read(self._database, collection.stored_bytes, self._uuid)

    def check_layout(self, layout: str) -> None:
        """Remember the model's layout the first time; refuse another one later."""
        mine = study.c.uuid == self._uuid
        query = sa.select(study.c.layout).where(mine)

        def body(connection: sa.Connection) -> str | None:
            connection.execute(
                sa.update(study).where(mine, study.c.layout.is_(None)).values(layout=layout)
            )
            return connection.scalar(query)

        stored = read(self._database, lambda connection: connection.scalar(query))
        rules.check_layout(stored or write(self._database, body) or layout, layout)

    def _facts(self, connection: sa.Connection) -> Facts:
        latest = connection.execute(
            sa.select(plan.c.generation, plan.c.round)
            .where(plan.c.study_uuid == self._uuid)
            .order_by(plan.c.generation.desc(), plan.c.round.desc())
            .limit(1)
        ).one_or_none()
        if latest is None:
            return Facts()
        return Facts(
            generation=latest.generation,
            round=latest.round,
            individuals=tuple(
                map(individual_of, connection.execute(self._individuals(latest.generation)))
            ),
            slots=self._slots(connection, latest.generation, latest.round),
        )

    def _commit_plan(self, connection: sa.Connection, given: Plan) -> bool:
        key = (given.generation, given.round)
        known = sa.select(plan.c.round).where(has_key(plan, self._uuid, key))
        if connection.scalar(known) is not None:
            return False
        mine = sa.select(study.c.uuid).where(study.c.uuid == self._uuid)
        if connection.scalar(mine) is None:
            raise StudyError(
                "The study's population was deleted while it was open (`optuna-esgd prune`)."
            )
        values = plan_values(self._uuid, given)
        connection.execute(sa.insert(plan).values(**values, committed_at=now_seconds()))
        if given.individuals:
            rows = [individual_values(self._uuid, one) for one in given.individuals]
            connection.execute(sa.insert(individual), rows)
        if given.cohorts:
            connection.execute(sa.insert(slot), slot_values(self._uuid, given))
        return True

    def _finish(
        self, connection: sa.Connection, claim: Claim, ended: Sequence[_Ended]
    ) -> bool | None:
        """Write everything; None, and nothing written, if chunks have to go up again."""
        chunks = [chunk for one in ended for chunk in one.chunks]
        is_small = weights.are_small(chunks)
        if not is_small and weights.missing_chunks(connection, {c.digest for c in chunks}):
            return None
        if not claims.finish(connection, self._uuid, claim):
            return claims.was_finished_by(connection, self._uuid, claim)
        if is_small:
            weights.insert_chunks(connection, chunks)
        weights.insert_snapshots(
            connection, (packed.listing for one in ended for packed in one.packed)
        )
        self._write_outcomes(connection, ended)
        return True

    def _write_outcomes(self, connection: sa.Connection, ended: Sequence[_Ended]) -> None:
        """One statement for all rows that change in the same columns."""
        keys = ("generation", "round", "number")
        query = sa.update(individual).where(individual.c.study_uuid == self._uuid)
        for key in keys:
            query = query.where(individual.c[key] == sa.bindparam(f"key_{key}"))
        groups: dict[tuple[str, ...], list[Values]] = {}
        for one in ended:
            row = {f"key_{key}": part for key, part in zip(keys, one.reference, strict=True)}
            groups.setdefault(tuple(one.values), []).append({**row, **one.values})
        for columns, rows in groups.items():
            values: Values = {column: sa.bindparam(column) for column in columns}
            connection.execute(query.values(values), rows)

    def _assign(self, connection: sa.Connection, trial_number: int) -> Individual | None:
        given = self._of_trial(connection, trial_number)
        first = (
            self._individuals()
            # A literal: a planner that does not see the 0 cannot use the partial index.
            .where(individual.c.round == sa.literal_column("0"))
            .where(individual.c.finished, individual.c.trial_number.is_(None))
            .limit(1)
        )
        while given is None:
            row = connection.execute(first).one_or_none()
            if row is None:
                return None
            reference = individual_of(row).reference
            if self._show(connection, reference, trial_number):
                given = self._of_trial(connection, trial_number)
        return given

    def _bind(self, connection: sa.Connection, reference: Reference, trial_number: int) -> bool:
        shown = self._of_trial(connection, trial_number)
        if shown is not None:
            return shown.reference == reference
        return self._show(connection, reference, trial_number)

    def _show(self, connection: sa.Connection, reference: Reference, trial_number: int) -> bool:
        result = connection.execute(
            sa.update(individual)
            .where(has_key(individual, self._uuid, reference))
            .where(individual.c.trial_number.is_(None))
            .values(trial_number=trial_number)
        )
        return result.rowcount == 1

    def _of_trial(self, connection: sa.Connection, trial_number: int) -> Individual | None:
        query = self._individuals().where(individual.c.trial_number == trial_number)
        row = connection.execute(query).one_or_none()
        return None if row is None else individual_of(row)

    def _individuals(self, *key: int) -> sa.Select[Any]:
        return (
            sa.select(individual)
            .where(has_key(individual, self._uuid, key))
            .order_by(individual.c.generation, individual.c.round, individual.c.number)
        )

    def _slots(self, connection: sa.Connection, *key: int) -> tuple[Slot, ...]:
        query = (
            sa.select(*slot_columns())
            .where(has_key(slot, self._uuid, key))
            .order_by(slot.c.generation, slot.c.round, slot.c.cohort)
        )
        return tuple(map(slot_of, connection.execute(query)))


class _Ended:
    """An outcome with its snapshots packed: what one individual's row becomes."""

    def __init__(self, claim: Claim, outcome: Outcome) -> None:
        self.reference = Reference(claim.slot.key.generation, claim.slot.key.round, outcome.number)
        self.packed: list[PackedSnapshot] = []
        values: Values = outcome_values(outcome, worker=claim.worker[:WORKER_LENGTH])
        digest = self._pack(outcome.weights)
        values |= {"weights": digest, "weights_digest": digest}
        values["optimizer_state"] = self._pack(outcome.optimizer_state)
        self.values = values

    @property
    def chunks(self) -> Iterable[Chunk]:
        return (chunk for packed in self.packed for chunk in packed.chunks)

    def _pack(self, snapshot: Snapshot | None) -> str | None:
        if snapshot is None:
            return None
        packed = pack(snapshot)
        self.packed.append(packed)
        return packed.listing.digest
