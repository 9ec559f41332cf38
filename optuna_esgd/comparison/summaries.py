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
        scores: By metric: fitness on the validation set first, then the test's.
        spent: Means by name of the count, wall time in seconds among them.
    """

    arm: str
    scores: dict[str, Score]
    spent: dict[str, float]


def summarise(runs: Mapping[str, Sequence[Run]]) -> list[Summary]:
    """Summarise the runs of each arm, in their order.

    Args:
        runs: By arm, one per seed; the reference among them.
    """
    reference = _values(runs[REFERENCE])
    summaries = []
    for arm, theirs in runs.items():
        scores = {}
        for metric, values in _values(theirs).items():
            p = None if arm == REFERENCE else permutation_test(reference[metric], values)
            scores[metric] = Score(float(np.mean(values)), standard_error(values), p)
        names = ("n_epochs", "n_gradients", "n_forwards", "n_evaluations", "cost", "seconds")
        spent = {name: float(np.mean([getattr(run, name) for run in theirs])) for name in names}
        summaries.append(Summary(arm, scores, spent))
    return summaries


def _values(runs: Sequence[Run]) -> dict[str, list[float]]:
    """One value per run, by metric."""
    scored = [{VALIDATION: run.validation, **named_test(run)} for run in runs]
    return {metric: [one[metric] for one in scored] for metric in scored[0]}


def named_test(run: Run) -> dict[str, float]:
    """A run's scores on the test set, by names that tell them from the validation's."""
    return {f"test {name}": value for name, value in run.test.items()}
