"""Contract: trials show individuals, one each."""

from __future__ import annotations

import time

from optuna_esgd.engine.individual import Reference, SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.testing.base import Contract
from optuna_esgd.testing.examples import example_plan, finish_generation, outcome, take


class TrialContract(Contract):
    """Assigning and binding."""

    def test_finished_individuals_are_given_in_order(self, population: Population) -> None:
        """By generation, then number; only those of round 0, and only once they have ended."""
        finish_generation(population, 0)
        population.commit_plan(example_plan(0, round_=1))
        claim = take(population, SlotKey(0, 1, 0))
        population.finish(claim, [outcome(0), outcome(1)])
        population.commit_plan(example_plan(1))
        claim = take(population, SlotKey(1, 0, 1))
        population.finish(claim, [outcome(2), outcome(3)])
        given = [population.assign_trial(number) for number in range(10, 18)]
        expected = [(0, 0, number) for number in range(4)] + [(1, 0, 2), (1, 0, 3)]
        assert [one and tuple(one.reference) for one in given] == [*expected, None, None]

    def test_no_individual_no_trial(self, population: Population) -> None:
        """None is not remembered: the trial may ask again."""
        assert population.assign_trial(0) is None
        population.commit_plan(example_plan(0))
        assert population.assign_trial(0) is None
        population.finish(take(population, SlotKey(0, 0, 1)), [outcome(2), outcome(3)])
        one = population.assign_trial(0)
        assert one is not None
        assert (one.reference, one.trial_number) == (Reference(0, 0, 2), 0)

    def test_an_individual_can_be_given_to_another_trial(self, population: Population) -> None:
        """A trial that fails before it has shown its individual gives it back."""
        finish_generation(population, 0)
        first = population.assign_trial(5)
        assert first is not None
        assert population.unassign_trials([5, 77]) == 1
        assert population.unassign_trials([5, 77]) == 0
        assert population.unassign_trials([]) == 0
        assert population.individual_of_trial(5) is None
        other = population.assign_trial(6)
        assert other is not None
        assert other.reference == first.reference

    def test_trial_gets_the_same_individual_again(self, population: Population) -> None:
        """A worker that died in between is asked again."""
        finish_generation(population, 0)
        first = population.assign_trial(5)
        assert first is not None
        assert population.assign_trial(6) != first
        assert population.assign_trial(5) == first
        assert population.individual_of_trial(5) == first
        assert population.individual_of_trial(7) is None

    def test_each_individual_is_given_once(self, population: Population) -> None:
        """However many trials ask at the same time."""
        finish_generation(population, 0)
        given = self.race(lambda number: [population.assign_trial(2 * number + i) for i in (0, 1)])
        references = [one.reference for pair in given for one in pair if one is not None]
        assert sorted(references) == [Reference(0, 0, number) for number in range(4)]

    def test_one_trial_asking_many_times_gets_one_individual(self, population: Population) -> None:
        """Also at the same time."""
        finish_generation(population, 0)
        given = {one and one.reference for one in self.race(lambda _: population.assign_trial(3))}
        assert len(given) == 1
        shown = [one.trial_number for one in population.individuals()]
        assert sorted(shown, key=str) == [3, None, None, None]

    def test_trial_is_bound_before_the_individual_ends(self, population: Population) -> None:
        """For objectives that choose: their trial comes first."""
        population.commit_plan(example_plan(0))
        assert population.bind_trial(Reference(0, 0, 0), 8)
        assert population.bind_trial(Reference(0, 0, 0), 8)
        assert not population.bind_trial(Reference(0, 0, 0), 9)
        assert not population.bind_trial(Reference(0, 0, 1), 8)
        assert not population.bind_trial(Reference(7, 0, 0), 10)
        population.finish(take(population, SlotKey(0, 0, 0)), [outcome(0), outcome(1)])
        one = population.assign_trial(9)
        assert one is not None
        assert one.reference == Reference(0, 0, 1)
        again = population.assign_trial(8)
        assert again is not None
        assert again.reference == Reference(0, 0, 0)

    def test_one_of_many_trials_is_bound(self, population: Population) -> None:
        """Binding races like claiming."""
        population.commit_plan(example_plan(0))
        bound = self.race(lambda number: population.bind_trial(Reference(0, 0, 0), number))
        assert sorted(bound) == [False] * (self.n_threads - 1) + [True]
        assert population.individuals()[0].trial_number == bound.index(True)

    def test_reserved_individuals_are_not_given_to_others(self, population: Population) -> None:
        """Whoever reserved them shows them, one trial each."""
        finish_generation(population, 0)
        population.assign_trial(0)
        reserved = population.reserve_unshown(lease_seconds=60)
        assert [one.reference.number for one in reserved] == [1, 2, 3]
        assert population.reserve_unshown(lease_seconds=60) == ()
        assert population.assign_trial(1) is None
        assert population.bind_trial(reserved[0].reference, 1)
        population.unassign_trials([1])
        one = population.assign_trial(2)
        assert one is not None
        assert one.reference == reserved[0].reference

    def test_a_few_can_be_reserved(self, population: Population) -> None:
        """In the order of their numbers."""
        finish_generation(population, 0)
        for expected in ([0, 1, 2], [3], []):
            reserved = population.reserve_unshown(lease_seconds=60, most=3)
            assert [one.reference.number for one in reserved] == expected

    def test_reservations_run_out(self, population: Population) -> None:
        """The worker that was about to show them has died."""
        finish_generation(population, 0)
        population.reserve_unshown(lease_seconds=self.short_lease_seconds)
        time.sleep(2 * self.short_lease_seconds)
        assert population.assign_trial(0) is not None
        assert len(population.reserve_unshown(lease_seconds=60)) == 3

    def test_each_individual_is_reserved_once(self, population: Population) -> None:
        """However many workers want to show it."""
        finish_generation(population, 0)
        reserved = self.race(lambda _: population.reserve_unshown(lease_seconds=60))
        numbers = sorted(one.reference.number for some in reserved for one in some)
        assert numbers == [0, 1, 2, 3]

    def test_trials_nobody_stands_by_are_lost(self, population: Population) -> None:
        """One lease after they were last heard of, or first seen."""
        seconds = self.short_lease_seconds
        population.renew_trials([1, 2], lease_seconds=60)
        assert population.lost_trials([1, 2, 3], lease_seconds=seconds) == ()
        population.renew_trials([2], lease_seconds=seconds)
        time.sleep(2 * seconds)
        assert population.lost_trials([3, 2, 1], lease_seconds=seconds) == (2, 3)
        assert population.lost_trials([1, 2, 3], lease_seconds=seconds) == (2, 3)
        population.renew_trials([3, 3], lease_seconds=60)
        assert population.lost_trials([1, 2, 3], lease_seconds=seconds) == (2,)
        assert population.lost_trials([], lease_seconds=seconds) == ()
        assert population.lost_trials([2], lease_seconds=seconds) == ()

    def test_trials_are_renewed_by_many_at_once(self, population: Population) -> None:
        """Also while others look for lost ones."""

        def renew_or_look(number: int) -> tuple[int, ...]:
            if number % 2:
                return population.lost_trials(range(8), lease_seconds=60)
            population.renew_trials(range(8), lease_seconds=60)
            return ()

        assert set(self.race(renew_or_look)) == {()}
