"""What an arm hands over: one model chosen on the validation set, and what was spent on it."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Outcome(NamedTuple):
    """The end of one run, before the test set is touched.

    Attributes:
        model: Chosen on the validation set.
        validation: Its fitness.
        n_gradients: Gradient evaluations.
        n_forwards: Evaluations of the loss alone.
        n_evaluations: Fitness evaluations.
    """

    model: nn.Module
    validation: float
    n_gradients: int
    n_forwards: int
    n_evaluations: int
