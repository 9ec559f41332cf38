"""What the facts are after something that has just been committed, without reading them again.

Plans do not change, and neither do finished slots. So whoever has committed one and knows the
facts before knows that much of the facts after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from optuna_esgd.engine.individual import Claim, Facts, Individual, Plan, Reference, Slot
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.evolution.fitness import clean_fitness
from optuna_esgd.evolution.space import Value


def after_plan(facts: Facts, plan: Plan) -> Facts:
    """The facts when a plan for a whole round has just been stored.

    Others may have claimed slots since, as they may after reading.
    """
    before = facts.individuals if plan.round else ()
    slots = tuple(
        Slot(key=key, numbers=tuple(numbers), state="free", is_claimable=True)
        for key, numbers in zip(plan.slot_keys, plan.cohorts, strict=True)
    )
    planned = (
        replace(one, hyperparameters=_plain(one.hyperparameters)) if one.hyperparameters else one
        for one in plan.individuals
    )
    return Facts(
        generation=plan.generation,
        round=plan.round,
        individuals=(*before, *planned),
        slots=slots,
    )


def after_slot(facts: Facts, claim: Claim, outcomes: Sequence[Outcome]) -> Facts:
    """The facts when a slot has just been finished; digests are left to the store.

    What others do in the other slots of the round is not in them.
    """
    key = claim.slot.key
    ended = {Reference(key.generation, key.round, one.number): one for one in outcomes}
    return replace(
        facts,
        individuals=tuple(
            _end(one, ended[one.reference], claim.worker) if one.reference in ended else one
            for one in facts.individuals
        ),
        slots=tuple(
            replace(slot, state="finished", is_claimable=False) if slot.key == key else slot
            for slot in facts.slots
        ),
    )


def is_round_finished(facts: Facts) -> bool:
    """Whether nothing is left that others could add to the facts before the next plan."""
    return bool(facts.slots) and all(slot.state == "finished" for slot in facts.slots)


def apply_outcome(
    planned: Individual, outcome: Outcome, *, worker: str, weights: str | None
) -> Individual:
    """The individual as it ended; ``weights`` is the digest of its stored weights."""
    birth = outcome.birth_fitness
    hyperparameters = outcome.hyperparameters
    return replace(
        planned,
        fitness=clean_fitness(outcome.fitness),
        birth_fitness=planned.birth_fitness if birth is None else clean_fitness(birth),
        species=planned.species if outcome.species is None else outcome.species,
        hyperparameters=(
            planned.hyperparameters if hyperparameters is None else _plain(hyperparameters)
        ),
        weights=weights,
        is_stored=weights is not None,
        n_back_offs=outcome.n_back_offs,
        n_epochs=outcome.n_epochs,
        n_gradients=outcome.n_gradients,
        n_forwards=outcome.n_forwards,
        n_evaluations=outcome.n_evaluations,
        worker=worker,
    )


def _end(planned: Individual, outcome: Outcome, worker: str) -> Individual:
    one = apply_outcome(planned, outcome, worker=worker, weights=None)
    return one if outcome.weights is None else replace(one, is_stored=True)


def _plain(values: Mapping[str, Value]) -> dict[str, Value]:
    """NumPy's numbers as Python's: so they come back from a database."""
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in values.items()
    }
