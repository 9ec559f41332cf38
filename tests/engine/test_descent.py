"""Whom an individual descends from, and in which order they trained."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from optuna_esgd.engine.descent import Kin, descent, trained_parents
from optuna_esgd.engine.individual import Individual, Reference, Slot, SlotKey


def founder(number: int) -> Individual:
    return Individual(reference=Reference(0, 0, number), birth="founder")


def child(reference: tuple[int, int, int], *parents: tuple[int, int, int]) -> Individual:
    return Individual(
        reference=Reference(*reference),
        birth="recombination" if len(parents) > 1 else "survivor",
        parents=tuple(Reference(*parent) for parent in parents),
    )


def slots(individuals: Iterable[Individual], size: int) -> list[Slot]:
    """Cohorts of neighbours."""
    cohorts: dict[SlotKey, list[int]] = {}
    for one in individuals:
        generation, round_, number = one.reference
        cohorts.setdefault(SlotKey(generation, round_, number // size), []).append(number)
    return [
        Slot(key=key, numbers=tuple(numbers), state="finished", is_claimable=False)
        for key, numbers in cohorts.items()
    ]


EVERYONE = {
    one.reference: one
    for one in (
        *map(founder, range(4)),
        child((0, 1, 0), (0, 0, 0), (0, 0, 3)),  # offspring of founders
        child((0, 2, 0), (0, 1, 0), (0, 0, 2)),  # and of the offspring
        child((1, 0, 0), (0, 0, 0)),
        child((1, 0, 1), (0, 1, 0), (0, 0, 2)),  # born as 0.2.0
        child((1, 0, 2), (0, 0, 2)),
        child((1, 0, 3), (0, 0, 3)),
        child((2, 0, 0), (1, 0, 1)),
    )
}


def line(reference: tuple[int, int, int], size: int, *, is_coupled: bool = False) -> list[Kin]:
    one = EVERYONE[Reference(*reference)]
    return descent(one, EVERYONE, slots(EVERYONE.values(), size), is_coupled=is_coupled)


def names(kin: Kin) -> tuple[list[str], list[str]]:
    return [str(one.reference) for one in kin.ancestors], [str(one.reference) for one in kin[1]]


def test_parents_that_never_trained_are_seen_through() -> None:
    assert trained_parents(EVERYONE[Reference(1, 0, 1)], EVERYONE) == {
        Reference(0, 0, 0),
        Reference(0, 0, 2),
        Reference(0, 0, 3),
    }


def test_a_line_of_one_parent_each() -> None:
    assert [names(kin) for kin in line((1, 0, 2), 4)] == [
        (["0.0.2"], ["0.0.0", "0.0.1", "0.0.3"]),
        (["1.0.2"], ["1.0.0", "1.0.1", "1.0.3"]),
    ]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_everybody_comes_after_all_they_descend_from(size: int) -> None:
    known: set[Reference] = set()
    for kin in line((2, 0, 0), size):
        for one in kin.ancestors:
            assert trained_parents(one, EVERYONE) <= known
        known.update(one.reference for one in kin.ancestors)
        assert len(kin.ancestors) + len(kin.companions) <= size
    wanted = {(0, 0, 0), (0, 0, 2), (0, 0, 3), (1, 0, 1), (2, 0, 0)}
    assert known == {Reference(*one) for one in wanted}


def test_an_offspring_has_not_trained_itself() -> None:
    assert [names(kin)[0] for kin in line((0, 2, 0), 4)] == [["0.0.0", "0.0.2", "0.0.3"]]


def test_coupled_cohorts_are_needed_whole() -> None:
    found = [names(kin) for kin in line((1, 0, 0), 2, is_coupled=True)]
    assert found[-1] == (["1.0.0", "1.0.1"], [])
    assert sorted(found[:-1]) == [(["0.0.0", "0.0.1"], []), (["0.0.2", "0.0.3"], [])]


def test_places_in_different_generations() -> None:
    """Asynchronously, somebody of generation 1 may descend from one of generation 2."""
    everyone = {
        one.reference: one
        for one in (
            founder(0),
            founder(1),
            child((1, 0, 0), (0, 0, 0)),
            child((2, 0, 0), (1, 0, 0)),
            child((1, 0, 1), (0, 0, 1), (2, 0, 0)),
        )
    }
    found = descent(
        everyone[Reference(1, 0, 1)], everyone, slots(everyone.values(), 1), is_coupled=False
    )
    order = [kin.ancestors[0].reference for kin in found]
    assert order.index(Reference(2, 0, 0)) < order.index(Reference(1, 0, 1)) == 4
