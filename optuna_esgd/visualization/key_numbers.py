"""A population in six numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from optuna_esgd.visualization.descent import common_ancestor, effective_number, founder_shares
from optuna_esgd.visualization.history import History


class Ancestor(NamedTuple):
    """One individual: where it is in the population, and the trial that shows it (or None)."""

    generation: int
    number: int
    trial: int | None


@dataclass(frozen=True, kw_only=True)
class KeyNumbers:
    """What to show large.

    Attributes:
        n_individuals: How many have finished training.
        generation: The latest one somebody has finished in; None while there is none.
        best_value: In the study's direction; None while there is none that has not diverged. An
            offspring of the last evolution step may be better than every trial.
        best_trial: The trial with the best value among the trials; None while there is none.
        common_ancestor: The latest one on the main lines of the whole latest complete generation;
            None while they lead to several founders.
        effective_founders: How many equal founders would be as diverse as those the latest
            complete generation descends from; None while there is no generation.
        back_off_rate: Back-offs per chance to back off (0 to 1); None before the first epoch.
    """

    n_individuals: int
    generation: int | None
    best_value: float | None
    best_trial: int | None
    common_ancestor: Ancestor | None
    effective_founders: float | None
    back_off_rate: float | None


def key_numbers(history: History) -> KeyNumbers:
    """Compute a population's key numbers."""
    if history.best is None:
        return KeyNumbers(
            n_individuals=0,
            generation=None,
            best_value=None,
            best_trial=None,
            common_ancestor=None,
            effective_founders=None,
            back_off_rate=None,
        )
    ancestor = common_ancestor(history)
    n_chances = history.n_chances.sum()
    founders = effective_number(founder_shares(history))
    sign = -1.0 if history.maximize else 1.0
    return KeyNumbers(
        n_individuals=history.n_individuals,
        generation=history.n_generations - 1,
        best_value=sign * history.best_fitness if math.isfinite(history.best_fitness) else None,
        best_trial=_trial(history, history.best),
        common_ancestor=None if ancestor is None else _ancestor(history, ancestor),
        effective_founders=float(founders[history.last_complete]),
        back_off_rate=float(history.n_back_offs.sum() / n_chances) if n_chances else None,
    )


def _ancestor(history: History, row: int) -> Ancestor:
    return Ancestor(int(history.generation[row]), int(history.number[row]), _trial(history, row))


def _trial(history: History, row: int) -> int | None:
    trial = int(history.trial[row])
    return None if trial < 0 else trial
