"""Conjugate gradients with a line search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from optuna_esgd import optim
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.species.base import Setting, Species


class NonlinearCG(Species):
    """Nonlinear conjugate gradients, for full batches. Searches ``lr``, the first length tried.

    A step takes as many gradients as its line search needs: three on a quadratic, up to
    ``max_evaluations`` and one. They are counted. Individuals train one by one.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {
        "lr": FloatRange(1e-3, 1.0, "log"),
        "beta": "pr+",
        "max_evaluations": 10,
        "slope_tolerance": 0.1,
    }

    def __init__(self, *, name: str = "NonlinearCG", **hyperparameters: Setting) -> None:
        super().__init__(optim.NonlinearCG, name=name, gradients_per_step=3, **hyperparameters)
