"""Places: what an asynchronous population consists of, and what is known of it.

The population has μ *places*. At any time a place is *held* by the individual that finished
training there last; the next one is on its way. Place j of generation k is individual k.0.j, so a
place's individuals share their number. The places of one cohort train together, and so advance
together; different cohorts may be in different generations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from optuna_esgd.engine.configuration import Configuration, cohorts
from optuna_esgd.engine.individual import NO_FACTS, Facts, Individual, Reference, Slot


def places_of(configuration: Configuration, cohort: int) -> range:
    """The numbers of the places in a cohort."""
    return cohorts(configuration, configuration.population_size)[cohort]


def brood_of(configuration: Configuration, places: range) -> range:
    """The numbers of the offspring that are bred for some places; λ / μ for each, about."""
    n_places, n_offspring = configuration.population_size, configuration.n_offspring
    return range(places.start * n_offspring // n_places, places.stop * n_offspring // n_places)


def current_holders(facts: Facts) -> list[Individual]:
    """Who holds each place, by number; places whose founder has not finished are left out."""
    holders: dict[int, Individual] = {}
    for one in sorted(facts.individuals, key=lambda one: one.reference):
        if one.reference.round == 0 and one.fitness is not None:
            holders[one.reference.number] = one
    return [holders[number] for number in sorted(holders)]


def facts_by_place(
    slots: Iterable[Slot],
    find: Callable[[Collection[Reference]], Iterable[Individual]],
    *,
    before: Facts = NO_FACTS,
) -> Facts:
    """Gather everyone that some place still needs: no more than a bounded number.

    These are the individuals of each place's latest generation, its holder, and the parents of
    those who are not finished or may be chosen as a birth. Whoever is not among them is needed by
    nobody any more.

    Args:
        slots: All slots of the latest generation of each cohort.
        find: Reads individuals by reference.
        before: Facts that were read earlier; who is the same since is not read again.
    """
    ordered = sorted(slots, key=lambda one: one.key)
    if not ordered:
        return Facts()
    latest = {slot.key.cohort: slot for slot in ordered}
    wanted = {one for slot in ordered for one in slot.references} | {
        Reference(slot.key.generation - 1, 0, number)
        for slot in ordered
        for number in slot.numbers
        if slot.key.round == 0 < slot.key.generation and slot.state != "finished"
    }
    known = before.unchanged(ordered)
    known |= {one.reference: one for one in find(wanted - known.keys())}
    parents = {
        parent
        for one in known.values()
        if one.reference in wanted and (one.reference.round or one.fitness is None)
        for parent in one.parents
    }
    known |= {one.reference: one for one in find(parents - known.keys())}
    furthest = ordered[-1].key
    return Facts(
        generation=furthest.generation,
        round=furthest.round,
        individuals=tuple(
            known[reference] for reference in sorted(known.keys() & (wanted | parents))
        ),
        slots=tuple(latest[cohort] for cohort in sorted(latest)),
    )
