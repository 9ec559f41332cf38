"""Mutations that are kept if the loss allows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from optuna_esgd import optim
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.optim.conditioned_mutation import ConditionedMutationRule
from optuna_esgd.optim.rule import Rule
from optuna_esgd.species.base import Setting, Species


class ConditionedMutation(Species):
    """Conditioned mutation (Whitelam et al. 2021), without gradients. Searches ``sigma``.

    ``beta`` is inf unless given: a mutation is kept iff the loss of its mini-batch does not rise.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {
        "sigma": FloatRange(1e-4, 1e-1, "log"),
        "beta": math.inf,
    }

    def __init__(self, *, name: str = "ConditionedMutation", **hyperparameters: Setting) -> None:
        super().__init__(
            optim.ConditionedMutation, name=name, gradients_per_step=1, **hyperparameters
        )

    def batched_update(self) -> Rule:
        """The optimizer's own rule."""
        return ConditionedMutationRule()
