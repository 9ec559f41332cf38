"""What has been run, and what has not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from optuna_esgd.comparison.runs import Run

Budget = Literal["gradients", "cost"]
BUDGETS: tuple[Budget, ...] = ("gradients", "cost")
_Runs = dict[tuple[str, int], Run]


class Comparison(NamedTuple):
    """All runs, or those there are so far.

    Attributes:
        name: What was compared on.
        equal_gradients: By arm: one run per seed, each individual with ``n_epochs_each`` epochs.
        equal_cost: By arm: one run per seed, with as many epochs as the cost of the reference of
            this seed allows. The same runs where that is as many. Empty if not asked for.
    """

    name: str
    equal_gradients: dict[str, list[Run]]
    equal_cost: dict[str, list[Run]]

    def of(self, arms: Collection[str]) -> Comparison:
        """The same of some arms only."""
        return self._replace(
            equal_gradients={a: same for a, same in self.equal_gradients.items() if a in arms},
            equal_cost={a: same for a, same in self.equal_cost.items() if a in arms},
        )


class Unit(NamedTuple):
    """What is done at a time: one run.

    Attributes:
        arm: Its name.
        seed: Of the task and the method.
        known: The run at equal gradients; None if that is what is to be done.
        cost: What the run at equal cost may cost; None at equal gradients.
    """

    arm: str
    seed: int
    known: Run | None = None
    cost: int | None = None


class Ledger:
    """Runs by arm and seed.

    Args:
        name: What is compared on.
        arms: Those that are to be run, the reference first.
        has_cost: Whether also at equal total cost.
        before: Runs that are there already, of any arms and seeds.
    """

    def __init__(
        self, name: str, arms: Sequence[str], *, has_cost: bool, before: Comparison | None
    ) -> None:
        self._name = name
        self._arms = list(arms)
        self._has_cost = has_cost
        self._gradients = {} if before is None else _by_key(before.equal_gradients)
        self._cost = {} if before is None else _by_key(before.equal_cost)

    def missing(self, seed: int, arms: Sequence[str]) -> list[Unit]:
        """The next run of each arm that is not there yet.

        The reference's must be, if it is asked for others.
        """
        units = []
        for arm in arms:
            known = self._gradients.get((arm, seed))
            if known is None:
                units.append(Unit(arm, seed))
            elif self._has_cost and (arm, seed) not in self._cost:
                units.append(Unit(arm, seed, known, self._gradients[self._arms[0], seed].cost))
        return units

    def enter(self, unit: Unit, run: Run) -> None:
        """Take up the run of a unit; the reference's is that at equal cost, too."""
        key = (unit.arm, unit.seed)
        if unit.known is None:
            self._gradients[key] = run
        if self._has_cost and (unit.known is not None or unit.arm == self._arms[0]):
            self._cost[key] = run

    def comparison(self) -> Comparison:
        """All runs, in the order of arms and seeds."""
        return Comparison(self._name, self._by_arm(self._gradients), self._by_arm(self._cost))

    def _by_arm(self, runs: _Runs) -> dict[str, list[Run]]:
        present = {arm for arm, _ in runs}
        order = [*self._arms, *sorted(present - set(self._arms))]
        return {
            arm: [runs[key] for key in sorted(runs) if key[0] == arm]
            for arm in order
            if arm in present
        }


def _by_key(runs: dict[str, list[Run]]) -> _Runs:
    return {(run.arm, run.seed): run for same in runs.values() for run in same}
