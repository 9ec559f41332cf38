"""Algorithm 1 without its barrier: every place of the population goes on by itself.

A steady-state reading of Cui et al. 2018, ours. Each place trains (round 0); when it has finished,
offspring are bred for it from whoever holds the places then (rounds 1 .. K_v, λ / μ each); when
they are scored, its next birth is chosen among its holder and its offspring, and it trains again.
See ``engine.places`` for the words.

The guarantee of Theorem 1 and Corollary 1 still holds, exactly: **the mean fitness of the r best
holders, for every r <= m, never gets worse**. Order the places by (fitness of the holder, number);
a place without a holder has fitness inf, as a diverged one has. Let K_r be the r-th smallest of
these keys. A key changes only when a place finishes training, and with back-off nobody ends worse
than born. Claim: no such event makes any K_r, r <= m, larger. By induction over the events:

1. A founder, or an individual whose birth was the best of its candidates, the holder among them
   (so it is wherever the holder was one of the m best): the key gets smaller or stays, and so no
   K_r gets larger.
2. Any other: the place was not among the m first when its birth was chosen, so its key was larger
   than K_m. Since then its key has not changed (only its own next event, which is this one, does
   that) and K_m has not become larger (by induction), so its key is still larger than K_m: it is
   not among the m first now, and whatever replaces it leaves those m where they are, or comes
   before one of them.

All keys differ, so ties need no care; and the means follow their summands (``mean_of_best``).
The facts a plan was made from may be out of date when it is committed: the proof asks only that
they were true once. A slot's own end, which is committed together with the plan that follows from
it, may be added to them: who chooses a birth has just scored offspring, which changes no key, or
has none and goes on with its own holder, whatever the others do. What the order of events decides
is who is bred and chosen: so results depend on how fast the workers are, and a seed does not
determine them.
"""

from __future__ import annotations

import math

from optuna_esgd.engine.actions import Action, Commit, Evaluate, Stop, Train, Wait
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Facts, Individual, Plan, Reference, Slot
from optuna_esgd.engine.places import brood_of, current_holders, places_of
from optuna_esgd.engine.planning import birth_of, breed_offspring, equip
from optuna_esgd.engine.ports import Explore
from optuna_esgd.evolution.fitness import mean_of_best
from optuna_esgd.evolution.randomness import stream


def decide(facts: Facts, configuration: Configuration, explore: Explore) -> Action:
    """Say what a worker should do now; for an asynchronous population that has its founders.

    Founders come first: the first offspring should have somebody to be bred from. Then plans, and
    then offspring, since both let a place go on. Of the places to be trained only those furthest
    behind are offered, so that they stay together as well as they can. Waiting is for when every
    place is in somebody's hands, or done.
    """
    # Others may have planned further, whom nobody had told where the run ends.
    slots = [slot for slot in facts.slots if configuration.wants(slot.key.generation)]
    claimable = [slot for slot in slots if slot.is_claimable]
    founders = tuple(slot for slot in claimable if slot.key[:2] == (0, 0))
    if founders:
        return Train(founders)
    for slot in sorted(slots, key=lambda one: one.key):
        plan = plan_next(slot, facts, configuration, explore)
        if plan is not None:
            return Commit(plan)
    broods = tuple(slot for slot in claimable if slot.key.round > 0)
    if broods:
        return Evaluate(broods)
    if claimable:
        last = min(slot.key.generation for slot in claimable)
        return Train(tuple(slot for slot in claimable if slot.key.generation == last))
    return Stop() if all(slot.state == "finished" for slot in slots) else Wait()


def plan_next(
    slot: Slot, facts: Facts, configuration: Configuration, explore: Explore
) -> Plan | None:
    """What comes after a cohort's latest slot; None while it is open, and after the last."""
    if slot.state != "finished":
        return None
    brood = brood_of(configuration, places_of(configuration, slot.key.cohort))
    if brood and slot.key.round < configuration.n_evolution_rounds:
        return plan_brood(slot, facts, configuration)
    if not configuration.wants(slot.key.generation + 1):
        return None
    return plan_births(slot, facts, configuration, explore)


def plan_brood(slot: Slot, facts: Facts, configuration: Configuration) -> Plan:
    """Lay out the next evolution round of one cohort; its parents hold places, far or near."""
    generation, round_, cohort = slot.key
    brood = brood_of(configuration, places_of(configuration, cohort))
    references = [Reference(generation, round_ + 1, number) for number in brood]
    return Plan(
        generation=generation,
        round=round_ + 1,
        individuals=breed_offspring(references, current_holders(facts), configuration),
        cohorts=(tuple(brood),),
        first_cohort=cohort,
    )


def plan_births(slot: Slot, facts: Facts, configuration: Configuration, explore: Explore) -> Plan:
    """Lay out the next SGD step of one cohort, each place's birth chosen by itself."""
    generation, _, cohort = slot.key
    places = places_of(configuration, cohort)
    births = [choose_birth(number, generation, facts, configuration) for number in places]
    parents = {one.reference: one for one in facts.individuals}
    return Plan(
        generation=generation + 1,
        round=0,
        individuals=equip(births, parents, configuration, explore),
        cohorts=(tuple(places),),
        certificate=_certificate(facts, configuration),
        first_cohort=cohort,
    )


def choose_birth(
    number: int, generation: int, facts: Facts, configuration: Configuration
) -> Individual:
    """Choose what a place goes on with after a generation, among its holder and its offspring.

    If the holder is one of the m best: the best of them. Otherwise the best offspring, if it beats
    the m-th best holder; else one of them at random, as the paper's survivors beyond the m best
    are, diverged ones only if there are no others.
    """
    ranked = sorted(
        current_holders(facts), key=lambda one: (one.fitness_or_inf, one.reference.number)
    )
    elites = ranked[: configuration.n_elites]
    holder = next(one for one in ranked if one.reference.number == number)
    offspring = _offspring(number, generation, facts, configuration)
    # Without offspring there is nothing to choose: everyone goes on as an elite.
    is_elite = holder in elites or not offspring
    candidates = [holder, *offspring]
    if is_elite:
        survivor = min(candidates, key=lambda one: one.fitness_or_inf)
    else:
        survivor = min(offspring, key=lambda one: one.fitness_or_inf)
        if survivor.fitness_or_inf >= elites[-1].fitness_or_inf:
            survivor = _draw(candidates, number, generation, configuration)
    return birth_of(survivor, Reference(generation + 1, 0, number), is_elite=is_elite)


def _offspring(
    number: int, generation: int, facts: Facts, configuration: Configuration
) -> list[Individual]:
    """Those bred for one place in a generation, of all rounds."""
    brood = brood_of(configuration, range(number, number + 1))
    return [
        one
        for one in facts.individuals
        if one.reference.generation == generation
        and one.reference.round > 0
        and one.reference.number in brood
    ]


def _draw(
    candidates: list[Individual], number: int, generation: int, configuration: Configuration
) -> Individual:
    rng = stream(configuration.seed, generation, number, "survivor")
    drawn = [one for one in candidates if math.isfinite(one.fitness_or_inf)] or candidates
    return drawn[int(rng.integers(len(drawn)))]


def _certificate(facts: Facts, configuration: Configuration) -> tuple[float, ...]:
    """Mean fitness of the r best holders; none as long as a founder has not finished."""
    fitness = [one.fitness_or_inf for one in current_holders(facts)]
    if len(fitness) < configuration.population_size:
        return ()
    return tuple(float(mean) for mean in mean_of_best(fitness, configuration.n_elites))
