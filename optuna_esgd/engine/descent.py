"""Descent: whom an individual descends from, and in which order they trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from typing import NamedTuple

from optuna_esgd.engine.individual import Individual, Reference, Slot


class Kin(NamedTuple):
    """A cohort in which somebody's ancestors trained.

    Attributes:
        ancestors: Those of its individuals that are needed, by number.
        companions: The others, who trained together with them.
    """

    ancestors: tuple[Individual, ...]
    companions: tuple[Individual, ...]


def trained_parents(
    individual: Individual, everyone: Mapping[Reference, Individual]
) -> set[Reference]:
    """Whose weights it is made of; parents that never trained are seen through."""
    found: set[Reference] = set()
    for parent in individual.parents:
        if parent.round == 0:
            found.add(parent)
        else:
            found |= trained_parents(everyone[parent], everyone)
    return found


def descent(
    individual: Individual,
    everyone: Mapping[Reference, Individual],
    slots: Iterable[Slot],
    *,
    is_coupled: bool,
) -> list[Kin]:
    """The cohorts an individual descends from, its own last if it trained.

    Args:
        individual: Whose descent.
        everyone: All individuals, by reference.
        slots: All slots; those of round 0 are looked at.
        is_coupled: Whether the individuals of a cohort depend on each other, as with diversity
            operators. Then all of them are ancestors.

    Returns:
        Each cohort after all it descends from.
    """
    cohort_of: dict[Reference, tuple[Reference, ...]] = {}
    for slot in slots:
        if slot.key.round == 0:
            members = tuple(sorted(slot.references))
            cohort_of.update(dict.fromkeys(members, members))
    trains = individual.reference.round == 0
    open_ = {individual.reference} if trains else trained_parents(individual, everyone)
    needed: set[Reference] = set()
    order: TopologicalSorter[tuple[Reference, ...]] = TopologicalSorter()
    while open_:
        reference = open_.pop()
        cohort = cohort_of[reference]
        parents = trained_parents(everyone[reference], everyone)
        needed.add(reference)
        order.add(cohort, *(cohort_of[parent] for parent in parents))
        open_ |= (parents | set(cohort if is_coupled else ())) - needed
    return [
        Kin(
            tuple(everyone[one] for one in cohort if one in needed),
            tuple(everyone[one] for one in cohort if one not in needed),
        )
        for cohort in order.static_order()
    ]
