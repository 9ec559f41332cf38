"""A population in SQL; the statements are in ``claims``, ``weights`` and ``collection``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache

import sqlalchemy as sa

from optuna_esgd.engine.individual import (
    NO_FACTS,
    Chronicle,
    Claim,
    Facts,
    Individual,
    Onward,
    Plan,
    Reference,
    Slot,
    SlotKey,
)
from optuna_esgd.engine.ports import Listener
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.errors import StorageError, StudyError
from optuna_esgd.store import (
    checkpoints,
    claims,
    collection,
    generations,
    places,
    trials,
    weights,
)
from optuna_esgd.store import outcomes as rules
from optuna_esgd.store.changes import announce, announce_last, listening
from optuna_esgd.store.chronicle import read_chronicle
from optuna_esgd.store.chunks import Chunk, PackedSnapshot, pack
from optuna_esgd.store.clock import now_seconds
from optuna_esgd.store.engines import Database
from optuna_esgd.store.queries import (
    read_finish_order,
    read_individuals,
    read_slots,
    select_individuals,
)
from optuna_esgd.store.rows import (
    WORKER_LENGTH,
    Values,
    begins_with_key,
    certificate_of,
    has_key,
    individual_of,
    individual_values,
    key_parameters,
    outcome_values,
    plan_values,
    slot_values,
)
from optuna_esgd.store.statements import execute_many
from optuna_esgd.store.tables import individual, plan, slot, study
from optuna_esgd.store.transactions import read, write

_MOST_UPLOADS = 20
_STATE = sa.select(individual.c.optimizer_state).where(begins_with_key(individual, 3))
_IS_TAKEN = (
    sa.exists()
    .where(begins_with_key(slot, 2), slot.c.cohort.in_(sa.bindparam("cohorts", expanding=True)))
    .label("is_taken")
)
_PLAN = sa.select(_IS_TAKEN).where(begins_with_key(plan, 2))
_INSERT_PLAN = sa.insert(plan).values(committed_at=now_seconds())
_INSERT_INDIVIDUALS, _INSERT_SLOTS = sa.insert(individual), sa.insert(slot)


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
        self._is_asynchronous = bool(configuration.get("asynchronous", False))
        self._is_old = places.is_old if self._is_asynchronous else generations.is_old

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

    def facts(self, before: Facts = NO_FACTS) -> Facts:
        """Read the latest generation and the slots of its latest round, in one snapshot."""
        if self._is_asynchronous:
            return read(self._database, places.read_facts, self._uuid, before)
        return read(self._database, generations.read_facts, self._uuid)

    def listening(self) -> AbstractContextManager[Listener]:
        """Hear of every change from the beginning of the block on."""
        return listening(self._database, self._uuid)

    def commit_plan(self, plan: Plan) -> bool:
        """Store a plan with its individuals and free slots; False if it comes too late."""
        return write(self._database, self._commit_plan, plan)

    def claim(self, key: SlotKey, *, worker: str, lease_seconds: float) -> Claim | None:
        """Take a claimable slot, or None."""
        return self.claim_one_of([key], worker=worker, lease_seconds=lease_seconds)

    def claim_one_of(
        self, keys: Sequence[SlotKey], *, worker: str, lease_seconds: float
    ) -> Claim | None:
        """Take the first of these slots that is claimable, or None."""
        worker = rules.readable(worker)[:WORKER_LENGTH]
        made: Slot | None = None

        def body(connection: sa.Connection) -> Slot | None:
            nonlocal made
            if not claims.is_claimed_by(connection, self._uuid, made, worker=worker):
                made = claims.claim(
                    connection, self._uuid, keys, worker=worker, lease_seconds=lease_seconds
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

        def body(connection: sa.Connection) -> bool:
            announce(connection, self._uuid)
            return claims.release(connection, self._uuid, claim, failure=text)

        return write(self._database, body)

    def finish(self, claim: Claim, outcomes: Sequence[Outcome]) -> bool:
        """Store weights, fitness and the finished slot together; False if the claim is lost."""
        return self._finish_and(claim, outcomes, lambda _connection, _is_again: False)

    def finish_and_go_on(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        *,
        plan: Plan | None,
        keys: Sequence[SlotKey],
        lease_seconds: float,
    ) -> Onward:
        """Finish a slot, store what comes next, and take a slot, in one transaction."""
        is_planned = False
        made: Slot | None = None

        def go_on(connection: sa.Connection, is_again: bool) -> bool:
            nonlocal is_planned, made
            if plan is not None:
                # After a commit whose answer got lost, it finds its own plan there.
                is_planned = self._commit_plan(connection, plan) or (is_again and is_planned)
            if keys and not claims.is_claimed_by(
                connection, self._uuid, made, worker=claim.worker
            ):
                made = claims.claim(
                    connection, self._uuid, keys, worker=claim.worker, lease_seconds=lease_seconds
                )
            return is_planned

        if not self._finish_and(claim, outcomes, go_on):
            return Onward(is_finished=False)
        following = (
            None if made is None else Claim(slot=made, attempt=made.attempt, worker=claim.worker)
        )
        return Onward(is_finished=True, is_planned=is_planned, claim=following)

    def save_checkpoint(self, claim: Claim, state: Snapshot, *, lease_seconds: float) -> bool:
        """Keep how far the slot's work has come; False if the claim is lost."""
        packed = pack(state)
        return self._upload(
            packed.chunks,
            claim,
            lambda connection: checkpoints.save(
                connection, self._uuid, claim, packed, lease_seconds=lease_seconds
            ),
        )

    def read_checkpoint(self, key: SlotKey) -> Snapshot | None:
        """What was last saved of the slot's work."""
        return read(self._database, checkpoints.read, self._uuid, key)

    def slot_failure(self, key: SlotKey) -> str:
        """The traceback of the slot's last failure, "" if there was none."""
        query = sa.select(slot.c.failure).where(has_key(slot, self._uuid, key))
        return read(self._database, lambda connection: connection.scalar(query)) or ""

    def assign_trial(self, trial_number: int) -> Individual | None:
        """Give the first finished individual without a trial this trial."""
        return write(self._database, trials.assign, self._uuid, trial_number)

    def unassign_trials(self, trial_numbers: Collection[int]) -> int:
        """Let others show what these trials could not; how many individuals are free again."""
        if not read(self._database, trials.show_any, self._uuid, trial_numbers):
            return 0
        return write(self._database, trials.unassign, self._uuid, trial_numbers)

    def bind_trial(self, reference: Reference, trial_number: int) -> bool:
        """Give one individual this trial; False if it, or the trial, has another one."""
        return write(self._database, trials.bind, self._uuid, reference, trial_number)

    def reserve_unshown(
        self, *, lease_seconds: float, most: int | None = None
    ) -> tuple[Individual, ...]:
        """Keep the finished individuals without a trial for the caller."""
        return write(self._database, trials.reserve, self._uuid, lease_seconds, most)

    def renew_trials(self, trial_numbers: Sequence[int], *, lease_seconds: float) -> None:
        """Stand by running trials for this long."""
        write(self._database, trials.renew, self._uuid, trial_numbers, lease_seconds=lease_seconds)

    def lost_trials(self, running: Collection[int], *, lease_seconds: float) -> tuple[int, ...]:
        """Which of these running trials nobody has stood by for a lease."""
        known = read(self._database, trials.leases, self._uuid)
        if known.keys() == set(running):  # nothing to write down
            return tuple(number for number, is_over in known.items() if is_over)
        return write(self._database, trials.lost, self._uuid, running, lease_seconds=lease_seconds)

    def read_weights(self, reference: Reference) -> Snapshot:
        """Read an individual's final weights."""
        owner = f"the weights of individual {reference}"
        parameters = key_parameters(self._uuid, reference)

        def body(connection: sa.Connection) -> Snapshot:
            row = connection.execute(select_individuals(3), parameters).one_or_none()
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
            digest = connection.scalar(_STATE, key_parameters(self._uuid, reference))
            return None if digest is None else weights.read_snapshot(connection, digest, owner)

        return read(self._database, body)

    def individuals(self, *, generation: int | None = None) -> tuple[Individual, ...]:
        """All individuals (of one generation), ordered by (generation, round, number)."""
        key = () if generation is None else (generation,)
        return read(self._database, read_individuals, self._uuid, *key)

    def individual_of_trial(self, trial_number: int) -> Individual | None:
        """The individual a trial shows."""
        return read(self._database, trials.of_trial, self._uuid, trial_number)

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
        return read(self._database, read_slots, self._uuid, *key)

    def finish_order(self) -> tuple[SlotKey, ...]:
        """The finished slots, in the order they finished by the database's clock."""
        return read(self._database, read_finish_order, self._uuid)

    def chronicle(self) -> Chronicle:
        """Read what became of everybody, without weights, in one snapshot."""
        n_rounds = int(str(self._configuration.get("n_evolution_rounds", 1)))
        return read(self._database, read_chronicle, self._uuid, n_rounds=n_rounds)

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
        return collection.collect(
            self._database,
            self._uuid,
            self._is_old,
            keeps_states=self._is_asynchronous,
            grace_seconds=grace_seconds,
        )

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

    def _commit_plan(self, connection: sa.Connection, given: Plan) -> bool:
        if not places.lock_plans(connection, self._uuid):
            raise StudyError(
                "The study's population was deleted while it was open (`optuna-esgd prune`)."
            )
        key = (given.generation, given.round)
        cohorts = [slot_key.cohort for slot_key in given.slot_keys]
        is_taken = connection.scalar(
            _PLAN, {**key_parameters(self._uuid, key), "cohorts": cohorts}
        )
        if is_taken:
            return False
        # With a barrier, who is late finds the plan itself: till then its parents are kept.
        if self._is_asynchronous and places.were_collected(
            connection, self._uuid, given.trained_parents
        ):
            return False
        if is_taken is None:
            connection.execute(_INSERT_PLAN, plan_values(self._uuid, given))
        if given.individuals:
            rows = [individual_values(self._uuid, one) for one in given.individuals]
            execute_many(connection, _INSERT_INDIVIDUALS, rows)
        if given.cohorts:
            execute_many(connection, _INSERT_SLOTS, slot_values(self._uuid, given))
        announce(connection, self._uuid)
        return True

    def _finish_and(
        self,
        claim: Claim,
        outcomes: Sequence[Outcome],
        go_on: Callable[[sa.Connection, bool], bool],
    ) -> bool:
        """Finish a slot, and go on in the same transaction if it could be finished.

        ``go_on`` is told whether the slot was finished by an earlier try; it says whether there is
        a plan now, of which everybody has been told.
        """
        rules.check_outcomes(claim, outcomes)
        ended = [_Ended(claim, outcome) for outcome in outcomes]
        chunks = [chunk for one in ended for chunk in one.chunks]
        # Before much is uploaded; with little the transaction finds out itself.
        is_small = weights.are_small(chunks)
        if not is_small and not read(self._database, claims.is_held, self._uuid, claim):
            return read(self._database, claims.was_finished_by, self._uuid, claim)

        def body(connection: sa.Connection) -> bool | None:
            is_now = self._finish(connection, claim, ended)
            if is_now is None:
                return None
            is_again = not is_now and claims.was_finished_by(connection, self._uuid, claim)
            if (is_now or is_again) and not go_on(connection, is_again):
                announce_last(connection, self._uuid, claim.slot.key)
            return is_now or is_again

        return self._upload(chunks, claim, body)

    def _upload(
        self,
        chunks: Sequence[Chunk],
        claim: Claim,
        use: Callable[[sa.Connection], bool | None],
    ) -> bool:
        """Store chunks, then use them; again if they were collected in between (None)."""
        for _ in range(_MOST_UPLOADS):
            if not weights.are_small(chunks):
                weights.upload(self._database, chunks)
            is_done = write(self._database, use)
            if is_done is not None:
                return is_done
        raise StorageError(
            f"The weights of {claim.slot.key} were collected {_MOST_UPLOADS} times before they "
            "could be used. Collect garbage less often."
        )

    def _finish(
        self, connection: sa.Connection, claim: Claim, ended: Sequence[_Ended]
    ) -> bool | None:
        """Write everything; False if the claim is lost, None if chunks have to go up again."""
        chunks = [chunk for one in ended for chunk in one.chunks]
        is_small = weights.are_small(chunks)
        if not is_small and weights.missing_chunks(connection, {c.digest for c in chunks}):
            return None
        if not claims.finish(connection, self._uuid, claim):
            return False
        if is_small:
            weights.insert_chunks(connection, chunks)
        weights.insert_snapshots(
            connection, (packed.listing for one in ended for packed in one.packed)
        )
        self._write_outcomes(connection, ended)
        if claim.slot.key.round == 0:  # scoring is never interrupted half-way
            checkpoints.delete(connection, self._uuid, claim.slot.key)
        return True

    def _write_outcomes(self, connection: sa.Connection, ended: Sequence[_Ended]) -> None:
        """One statement for all rows that change in the same columns."""
        groups: dict[tuple[str, ...], list[Values]] = {}
        for one in ended:
            row = {**key_parameters(self._uuid, one.reference), **one.values}
            groups.setdefault(tuple(one.values), []).append(row)
        for columns, rows in groups.items():
            execute_many(connection, _update_individual(columns), rows)


@cache
def _update_individual(columns: tuple[str, ...]) -> sa.Update:
    values: Values = {column: sa.bindparam(column) for column in columns}
    return sa.update(individual).where(begins_with_key(individual, 3)).values(values)


class _Ended:
    """An outcome with its snapshots packed: what one individual's row becomes."""

    def __init__(self, claim: Claim, outcome: Outcome) -> None:
        self.reference = Reference(claim.slot.key.generation, claim.slot.key.round, outcome.number)
        self.packed: list[PackedSnapshot] = []
        values: Values = outcome_values(outcome, worker=claim.worker[:WORKER_LENGTH])
        # What stays NULL is not written: its indexes would be written again for most offspring.
        if outcome.weights is not None:
            digest = self._pack(outcome.weights)
            values |= {"weights": digest, "weights_digest": digest}
        if outcome.optimizer_state is not None:
            values["optimizer_state"] = self._pack(outcome.optimizer_state)
        self.values = values

    @property
    def chunks(self) -> Iterable[Chunk]:
        return (chunk for packed in self.packed for chunk in packed.chunks)

    def _pack(self, snapshot: Snapshot) -> str:
        packed = pack(snapshot)
        self.packed.append(packed)
        return packed.listing.digest
