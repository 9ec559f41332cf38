"""A ``torch.optim.Optimizer`` that refuses settings out of their limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from optuna_esgd.optim.limits import Limit, check_limits

Parameters: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]]


class LimitedOptimizer(torch.optim.Optimizer):
    """Every parameter group has hyperparameters of its own, all of them within limits.

    Args:
        params: As for ``torch.optim``.
        defaults: Hyperparameters.

    Raises:
        ConfigurationError: A hyperparameter is out of its limits.

    Attributes:
        limits: What each hyperparameter must be.
    """

    limits: ClassVar[Mapping[str, Limit]] = {}

    def __init__(self, params: Parameters, defaults: dict[str, Any]) -> None:
        check_limits(self.limits, defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Check a group's own settings, then add it."""
        if isinstance(param_group, dict):
            self.check_settings({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse what a parameter group must not be set to.

        Raises:
            ConfigurationError: Which setting, what it must be, and what came.
        """
        check_limits(self.limits, settings)
