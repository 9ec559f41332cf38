"""Rules of common species whose update is compiled C: the same formulas in one pass.

For rows of float32, as everything that a kernel trains.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from optuna_esgd.native.updates import Updates
from optuna_esgd.optim.rule import Rule, State
from optuna_esgd.species.adam import AdamUpdate
from optuna_esgd.species.sgd import SGDUpdate


def native_rule(rule: Rule, updates: Updates) -> Rule:
    """The rule in C, or as it is if there is none for it.

    Args:
        rule: Of a species; one of a class derived from a known one is not known.
        updates: The compiled ones.
    """
    if type(rule) is SGDUpdate:
        return NativeSGDUpdate(updates, has_momentum=bool(rule.elementwise))
    if type(rule) is AdamUpdate:
        return NativeAdamUpdate(
            updates,
            keeps_maximum=rule.keeps_maximum,
            decouples_weight_decay=rule.decouples_weight_decay,
        )
    return rule


class NativeSGDUpdate(SGDUpdate):
    """See ``SGDUpdate``."""

    def __init__(self, updates: Updates, *, has_momentum: bool) -> None:
        super().__init__(has_momentum=has_momentum)
        self._updates = updates

    def step(
        self,
        parameters: Tensor,
        gradients: Tensor,
        state: State,
        hyperparameters: Mapping[str, Tensor],
    ) -> None:
        """See ``BatchedUpdate``."""
        self._updates.sgd(
            parameters,
            gradients,
            state.get("momentum_buffer"),
            hyperparameters["lr"],
            hyperparameters.get("momentum"),
            hyperparameters.get("weight_decay"),
            hyperparameters.get("nesterov"),
        )


class NativeAdamUpdate(AdamUpdate):
    """See ``AdamUpdate``."""

    def __init__(
        self, updates: Updates, *, keeps_maximum: bool, decouples_weight_decay: bool
    ) -> None:
        super().__init__(
            keeps_maximum=keeps_maximum, decouples_weight_decay=decouples_weight_decay
        )
        self._updates = updates

    def step(
        self,
        parameters: Tensor,
        gradients: Tensor,
        state: State,
        hyperparameters: Mapping[str, Tensor],
    ) -> None:
        """See ``BatchedUpdate``."""
        lr, beta1, beta2, eps = (hyperparameters[name] for name in ("lr", "beta1", "beta2", "eps"))
        self._updates.adam(
            parameters,
            gradients,
            (state["exp_avg"], state["exp_avg_sq"], state.get("max_exp_avg_sq")),
            state["step"],
            (lr, beta1, beta2, eps, hyperparameters.get("weight_decay")),
            decouples_weight_decay=self.decouples_weight_decay,
        )
