from __future__ import annotations

from optuna_esgd.engine.individual import Facts, Individual, Reference


def individual(*reference: int, parents: tuple[Reference, ...] = ()) -> Individual:
    return Individual(reference=Reference(*reference), birth="founder", parents=parents)


def test_references_are_short_and_ordered() -> None:
    assert str(Reference(3, 0, 7)) == "3.0.7"
    assert sorted([Reference(1, 0, 0), Reference(0, 1, 0), Reference(0, 0, 9)]) == [
        Reference(0, 0, 9),
        Reference(0, 1, 0),
        Reference(1, 0, 0),
    ]


def test_the_first_parent_is_the_birth_parent() -> None:
    first, second = Reference(0, 0, 5), Reference(0, 0, 1)
    assert individual(1, 0, 0, parents=(first, second)).first_parent == first
    assert individual(0, 0, 0).first_parent is None


def test_facts_are_told_apart_by_round() -> None:
    trained, bred = individual(0, 0, 0), individual(0, 1, 0)
    facts = Facts(generation=0, round=1, individuals=(trained, bred))
    assert facts.in_round(0) == (trained,)
    assert facts.in_round(1) == (bred,)
    assert facts.in_round(2) == ()


def test_before_the_first_plan_there_is_no_generation() -> None:
    assert Facts().generation == -1
