"""Rows to the engine's nouns, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast, get_args

import sqlalchemy as sa

from optuna_esgd.engine.individual import (
    Birth,
    Individual,
    Plan,
    Reference,
    Slot,
    SlotKey,
    SlotState,
)
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.errors import ConfigurationError, CorruptionError
from optuna_esgd.evolution.fitness import clean_fitness
from optuna_esgd.store import tables
from optuna_esgd.store.clock import now_seconds

# A worker's name is for people; a long one is cut, not refused.
WORKER_LENGTH = 255
# More than the facts of a large population.
_N_PARSED = 8192

Values = dict[str, Any]


def plan_values(study_uuid: str, plan: Plan) -> Values:
    """The row of a plan, without its time."""
    return {
        "study_uuid": study_uuid,
        "generation": plan.generation,
        "round": plan.round,
        "certificate": _dump([_number_to_json(mean) for mean in plan.certificate]),
    }


def slot_values(study_uuid: str, plan: Plan) -> list[Values]:
    """The rows of a plan's slots, all free."""
    return [
        {
            "study_uuid": study_uuid,
            **key._asdict(),
            "numbers": _dump(list(numbers)),
            "state": "free",
            "attempt": 0,
            "n_failures": 0,
            "failure": "",
            "worker": "",
        }
        for key, numbers in zip(plan.slot_keys, plan.cohorts, strict=True)
    ]


def individual_values(study_uuid: str, one: Individual) -> Values:
    """The row of an individual as planned."""
    birth_fitness, birth_diverged = split_fitness(one.birth_fitness)
    return {
        "study_uuid": study_uuid,
        **one.reference._asdict(),
        "birth": one.birth,
        "origin": None if one.origin is None else _dump(one.origin),
        "parents": _dump(one.parents),
        "mutation_scale": float(one.mutation_scale),
        "species": one.species,
        "hyperparameters": _dump(dict(one.hyperparameters)),
        "inherits_optimizer_state": one.inherits_optimizer_state,
        "birth_fitness": birth_fitness,
        "birth_diverged": birth_diverged,
        "diverged": False,
        "finished": False,
        "pinned": False,
        "n_back_offs": 0,
        "n_epochs": 0,
        "n_gradients": 0,
        "n_forwards": 0,
        "n_evaluations": 0,
        "worker": "",
    }


def outcome_values(outcome: Outcome, *, worker: str) -> Values:
    """What an outcome changes in its individual's row, weights apart."""
    fitness, diverged = split_fitness(outcome.fitness)
    values: Values = {
        "fitness": fitness,
        "diverged": diverged,
        "finished": True,
        "n_back_offs": int(outcome.n_back_offs),
        "n_epochs": int(outcome.n_epochs),
        "n_gradients": int(outcome.n_gradients),
        "n_forwards": int(outcome.n_forwards),
        "n_evaluations": int(outcome.n_evaluations),
        "worker": worker,
    }
    if outcome.birth_fitness is not None:
        birth_fitness, birth_diverged = split_fitness(outcome.birth_fitness)
        values |= {"birth_fitness": birth_fitness, "birth_diverged": birth_diverged}
    if outcome.species is not None:
        values["species"] = outcome.species
    if outcome.hyperparameters is not None:
        values["hyperparameters"] = _dump(dict(outcome.hyperparameters))
    return values


@lru_cache(maxsize=_N_PARSED)
def individual_of(row: sa.Row[Any]) -> Individual:
    """The individual in a row of ``esgd_individual``.

    Rows are read again and again and seldom change: the same values are parsed once.
    """
    if row.birth not in get_args(Birth):
        raise CorruptionError(f"An individual's birth cannot be {row.birth!r}.")
    fitness = _join_fitness(row.fitness, row.diverged) if row.finished else None
    return Individual(
        reference=Reference(row.generation, row.round, row.number),
        birth=cast("Birth", row.birth),
        origin=None if row.origin is None else Reference(*_parse(row.origin)),
        parents=tuple(Reference(*parent) for parent in _parse(row.parents)),
        mutation_scale=row.mutation_scale,
        species=row.species,
        hyperparameters=_parse(row.hyperparameters),
        inherits_optimizer_state=bool(row.inherits_optimizer_state),
        birth_fitness=_join_fitness(row.birth_fitness, row.birth_diverged),
        fitness=fitness,
        weights=row.weights_digest,
        is_stored=row.weights is not None,
        trial_number=row.trial_number,
        n_back_offs=row.n_back_offs,
        n_epochs=row.n_epochs,
        n_gradients=row.n_gradients,
        n_forwards=row.n_forwards,
        n_evaluations=row.n_evaluations,
        worker=row.worker,
    )


def slot_columns() -> list[sa.ColumnElement[Any]]:
    """What ``slot_of`` needs; whether a slot is claimable is for the database's clock to say."""
    columns = tables.slot.c
    is_claimable = sa.case(
        (columns.state == "free", True),
        (columns.state == "claimed", columns.lease_until < now_seconds()),
        else_=False,
    )
    return [
        columns.generation,
        columns.round,
        columns.cohort,
        columns.numbers,
        columns.state,
        columns.attempt,
        columns.n_failures,
        is_claimable.label("is_claimable"),
    ]


def slot_of(row: sa.Row[Any]) -> Slot:
    """The slot in a row of ``slot_columns``."""
    return Slot(
        key=SlotKey(row.generation, row.round, row.cohort),
        numbers=numbers_of(row.numbers),
        state=cast("SlotState", row.state),
        is_claimable=bool(row.is_claimable),
        attempt=row.attempt,
        n_failures=row.n_failures,
    )


def numbers_of(text: str) -> tuple[int, ...]:
    """The individuals in a row of ``esgd_slot``."""
    return tuple(_parse(text))


def certificate_of(text: str) -> tuple[float, ...]:
    """The certificate in a row of ``esgd_plan``."""
    return tuple(float(mean) for mean in _parse(text))


def split_fitness(fitness: float | None) -> tuple[float | None, bool]:
    """(value, diverged): what the two columns of a fitness hold."""
    if fitness is None:
        return None, False
    cleaned = clean_fitness(float(fitness))
    return (cleaned, False) if math.isfinite(cleaned) else (None, True)


def has_key(table: sa.Table, study_uuid: str, key: Iterable[int]) -> sa.ColumnElement[bool]:
    """Whether a row's primary key is this one, or begins with it."""
    columns: Sequence[sa.Column[Any]] = list(table.primary_key.columns)
    conditions = [
        column == part for column, part in zip(columns, (study_uuid, *key), strict=False)
    ]
    return sa.and_(*conditions)


@lru_cache(maxsize=64)
def begins_with_key(table: sa.Table, n_parts: int) -> sa.ColumnElement[bool]:
    """As ``has_key`` with so many parts, to be asked again and again with ``key_parameters``.

    Statements that are made once are also compiled, and looked up, once: making and looking up
    take longer than SQLite takes to answer.
    """
    columns = list(table.primary_key.columns)[: n_parts + 1]
    return sa.and_(*(column == sa.bindparam(f"key_{at}") for at, column in enumerate(columns)))


def key_parameters(study_uuid: str, key: Iterable[int]) -> Values:
    """What ``begins_with_key`` asks for."""
    return {f"key_{at}": part for at, part in enumerate((study_uuid, *key))}


def is_one_of(
    table: sa.Table, study_uuid: str, keys: Collection[tuple[int, int, int]]
) -> sa.ColumnElement[bool]:
    """Whether a row of individuals, or of slots, is one of these."""
    *_, last = table.primary_key.columns
    rounds: dict[tuple[int, int], list[int]] = {}
    for generation, round_, number in sorted(keys):
        rounds.setdefault((generation, round_), []).append(number)
    return sa.or_(
        sa.false(),
        *(
            sa.and_(has_key(table, study_uuid, key), last.in_(numbers))
            for key, numbers in rounds.items()
        ),
    )


def _join_fitness(value: float | None, diverged: object) -> float | None:
    return math.inf if diverged else value


def _number_to_json(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


def _dump(content: Mapping[str, Any] | Sequence[Any]) -> str:
    return json.dumps(content, separators=(",", ":"), default=_plain)


def _plain(value: object) -> object:
    """A NumPy number as Python's, which JSON knows."""
    item = getattr(value, "item", None)
    if item is None:
        raise ConfigurationError(
            f"Hyperparameters must be numbers, texts, booleans or None, got {value!r}."
        )
    return item()


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise CorruptionError(
            f"A stored value is damaged: {text[:40]!r} is not JSON. The rest of the study can be "
            "read; restore this row from a backup."
        ) from None
