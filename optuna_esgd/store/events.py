"""Checks an asynchronous run by going through it again, event by event.

The proof in ``engine.asynchronous`` follows the order in which workers saw the events. It holds
as well in the order of the database's clock: all that it asks is that whatever a plan was made
from comes before what the plan led to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from optuna_esgd.engine.individual import Individual, Reference, Slot, SlotKey
from optuna_esgd.evolution.fitness import mean_of_best

TOO_LATE = "which did not come before it"


def ancestors_of(one: Individual) -> tuple[Reference, ...]:
    """Parents and origin, as far as there are any."""
    return (*one.parents, *([one.origin] if one.origin else []))


def about_events(
    order: Sequence[SlotKey],
    slots: Sequence[Slot],
    everyone: Mapping[Reference, Individual],
    certificates: Mapping[int, tuple[float, ...]],
    n_elites: int,
) -> Iterator[str]:
    """What is not true of the finished slots, one after the other, in words.

    Checked are that ancestors finished before whoever descends from them; that a birth comes from
    the same place, one generation before; that the mean of the r best holders, r = 1 .. m, never
    gets worse; and that no certificate is better than the holders were when its generation began
    to finish.
    """
    certificates = dict(certificates)
    numbers = {slot.key: slot.numbers for slot in slots}
    finished: set[Reference] = set()
    holders: dict[int, float] = dict.fromkeys(
        (number for key in numbers if key[:2] == (0, 0) for number in numbers[key]), math.inf
    )
    before = mean_of_best([*holders.values()], n_elites)
    for key in order:
        members = [Reference(key.generation, key.round, n) for n in numbers.get(key, ())]
        stored = certificates.pop(key.generation, ())
        if any(mean < actual for mean, actual in zip(stored, before, strict=False)):
            yield (
                f"The certificate of generation {key.generation} says {stored}, but the holders' "
                f"means were {tuple(map(float, before))} when its first slot finished."
            )
        for one in (everyone[reference] for reference in members if reference in everyone):
            yield from _about_descent(one, finished)
            if key.round == 0:
                holders[one.reference.number] = one.fitness_or_inf
        finished.update(members)
        after = mean_of_best([*holders.values()], n_elites)
        for n_best, (was, now) in enumerate(zip(before, after, strict=True), start=1):
            if not now <= was:
                yield f"The mean of the {n_best} best got worse from {was} to {now} with {key}."
        before = after


def _about_descent(one: Individual, finished: set[Reference]) -> Iterator[str]:
    who, origin = one.reference, one.origin
    for ancestor in ancestors_of(one):
        if ancestor not in finished:
            yield f"Individual {who} descends from {ancestor}, {TOO_LATE}."
    if origin is None:
        return
    is_next = origin.generation == who.generation - 1
    if not is_next or (origin.round == 0 and origin.number != who.number):
        yield f"Individual {who} goes on with {origin}, which is not of its place."
