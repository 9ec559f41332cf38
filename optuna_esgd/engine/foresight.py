"""What the facts are after something that has just been committed, without reading them again.

Plans do not change, and neither do finished slots. So whoever has committed one and knows the
facts before knows that much of the facts after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from optuna_esgd.engine import asynchronous
from optuna_esgd.engine.actions import Commit, Evaluate, Train
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.decide import decide
from optuna_esgd.engine.explore import ExploreSpaces, explore_nothing
from optuna_esgd.engine.individual import Claim, Facts, Individual, Plan, Reference, Slot
from optuna_esgd.engine.ports import Explore
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.evolution.fitness import clean_fitness
from optuna_esgd.evolution.space import Value


@dataclass(frozen=True)
class Ahead:
    """What a worker knows before it finishes a slot.

    Attributes:
        facts: After the slot, before the plan; None if nothing is known.
        plan: What the slot leads to; None if that depends on others, or nothing is left to plan.
        planned: The facts after the plan; None without one.
        following: What there will be to do after that plan; without a barrier, also without one.
    """

    facts: Facts | None = None
    plan: Plan | None = None
    planned: Facts | None = None
    following: Train | Evaluate | None = None


def is_pure(explore: Explore) -> bool:
    """Whether what is chosen depends on the births and their parents alone.

    What a sampler chooses may depend on outcomes that are not stored yet.
    """
    return isinstance(explore, ExploreSpaces) or explore is explore_nothing


def look_ahead(
    facts: Facts,
    claim: Claim,
    outcomes: Sequence[Outcome],
    configuration: Configuration,
    explore: Explore,
) -> Ahead:
    """What is known to be when a slot is finished.

    With a barrier a plan follows when the round ends; without one, after every slot.

    Args:
        facts: As last read; without a barrier, just now.
        claim: On the slot.
        outcomes: Of its individuals.
        configuration: The run's settings.
        explore: Where new hyperparameters come from; asked only if it is pure.
    """
    facts = after_slot(facts, claim, outcomes)
    if not is_pure(explore):
        return Ahead(facts)
    if configuration.asynchronous:
        return _look_ahead_of_places(facts, claim, configuration, explore)
    if not is_round_finished(facts):
        return Ahead(facts)
    action = decide(facts, configuration, explore)
    if not isinstance(action, Commit):
        return Ahead(facts)
    planned = after_plan(facts, action.plan)
    after = decide(planned, configuration, explore)
    following = after if isinstance(after, Train | Evaluate) else None
    return Ahead(facts, action.plan, planned, following)


def _look_ahead_of_places(
    facts: Facts, claim: Claim, configuration: Configuration, explore: Explore
) -> Ahead:
    slot = next((one for one in facts.slots if one.key == claim.slot.key), None)
    if slot is None:
        return Ahead()  # the lease was lost, and the places went on
    plan = asynchronous.plan_next(slot, facts, configuration, explore)
    planned = None if plan is None else after_plan_of_cohort(facts, plan)
    after = decide(facts if planned is None else planned, configuration, explore)
    following = after if isinstance(after, Train | Evaluate) else None
    return Ahead(facts, plan, planned, following)


def after_plan(facts: Facts, plan: Plan) -> Facts:
    """The facts when a plan for a whole round has just been stored.

    Others may have claimed slots since, as they may after reading.
    """
    before = facts.individuals if plan.round else ()
    return Facts(
        generation=plan.generation,
        round=plan.round,
        individuals=(*before, *_planned(plan)),
        slots=tuple(_free_slots(plan)),
    )


def after_plan_of_cohort(facts: Facts, plan: Plan) -> Facts:
    """Without a barrier: the facts when a plan for one cohort has just been stored.

    Of the cohort's generation before, everyone is still there.
    """
    known = {one.reference: one for one in (*facts.individuals, *_planned(plan))}
    slots = {slot.key.cohort: slot for slot in (*facts.slots, *_free_slots(plan))}
    furthest = max(slot.key for slot in slots.values())
    return Facts(
        generation=furthest.generation,
        round=furthest.round,
        individuals=tuple(known[reference] for reference in sorted(known)),
        slots=tuple(slots[cohort] for cohort in sorted(slots)),
    )


def _free_slots(plan: Plan) -> Iterator[Slot]:
    for key, numbers in zip(plan.slot_keys, plan.cohorts, strict=True):
        yield Slot(key=key, numbers=tuple(numbers), state="free", is_claimable=True)


def _planned(plan: Plan) -> Iterator[Individual]:
    """Those of a plan, as they come back from a database."""
    for one in plan.individuals:
        values = one.hyperparameters
        yield replace(one, hyperparameters=_plain(values)) if values else one


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
