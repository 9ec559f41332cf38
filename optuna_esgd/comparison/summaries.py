"""What the runs of each arm say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from optuna_esgd.comparison.arms import REFERENCE
from optuna_esgd.comparison.runs import Run
from optuna_esgd.comparison.statistics import permutation_test, standard_error

VALIDATION = "validation"


class Score(NamedTuple):
    """One metric of one arm over all seeds.

    Attributes:
        mean: Lower is better.
        standard_error: NaN with one seed.
        p: That the reference is no better, one-sided and paired; None for the reference itself.
    """

    mean: float
    standard_error: float
    p: float | None


class Summary(NamedTuple):
    """One arm over all seeds.

    Attributes:
        arm: Its name.
        n_seeds: How many.
        scores: By metric: fitness on the validation set first, then the test's.
        spent: Means by name of the count, wall time in seconds among them.
    """

    arm: str
    n_seeds: int
    scores: dict[str, Score]
    spent: dict[str, float]


def summarise(runs: Mapping[str, Sequence[Run]]) -> list[Summary]:
    """Summarise the runs of each arm, in their order.

    Args:
        runs: By arm, one per seed; the reference among them. Where some seeds are still to be run,
            p is of those that both have; arms that share none with it are left out.
    """
    reference = {run.seed: run for run in runs[REFERENCE]}
    summaries = []
    for arm, same in runs.items():
        theirs = [run for run in same if run.seed in reference]
        if not theirs:
            continue
        ours = _values([reference[run.seed] for run in theirs])
        scores = {}
        for metric, values in _values(theirs).items():
            p = None if arm == REFERENCE else permutation_test(ours[metric], values)
            scores[metric] = Score(float(np.mean(values)), standard_error(values), p)
        names = ("n_epochs", "n_gradients", "n_forwards", "n_evaluations", "cost", "seconds")
        spent = {name: float(np.mean([getattr(run, name) for run in theirs])) for name in names}
        summaries.append(Summary(arm, len(theirs), scores, spent))
    return summaries


def _values(runs: Sequence[Run]) -> dict[str, list[float]]:
    """One value per run, by metric."""
    scored = [{VALIDATION: run.validation, **named_test(run)} for run in runs]
    return {metric: [one[metric] for one in scored] for metric in scored[0]}


def named_test(run: Run) -> dict[str, float]:
    """A run's scores on the test set, by names that tell them from the validation's."""
    return {f"test {name}": value for name, value in run.test.items()}
