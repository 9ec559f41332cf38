"""Gradients raised to a power: small ones count for more, large ones for less."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from optuna_esgd.optim.limited_optimizer import Parameters
from optuna_esgd.optim.limits import POSITIVE, Limit, check_limits

_LIMITS: Mapping[str, Limit] = {"H": POSITIVE}


def power_gradient(gradient: Tensor, power: float | Tensor) -> Tensor:
    """sign(g)·|g|^H, elementwise (Baiesi 2019, arXiv 1906.04787)."""
    return gradient.abs().pow_(power).copysign_(gradient)


class _PowerGradient(torch.optim.Optimizer):
    """Lets one of torch's optimizers see powers of the gradients; ``grad`` is left as it is."""

    _power: float

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Check a group's H, then add it."""
        if isinstance(param_group, dict):
            default = self.defaults.get("H", self._power)
            check_limits(_LIMITS, {"H": param_group.setdefault("H", default)})
        super().add_param_group(param_group)

    def _init_group(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], *others: Any
    ) -> bool:
        """Torch collects the gradients here, on their way from ``grad`` to the update."""
        result: bool = super()._init_group(group, params, grads, *others)  # type: ignore[misc]
        grads[:] = [power_gradient(gradient, group["H"]) for gradient in grads]
        return result


class PowerGradientSGD(_PowerGradient, torch.optim.SGD):
    """SGD on sign(g)·|g|^H (Baiesi 2019, arXiv 1906.04787); ``grad`` itself is left as it is.

    H = 1 is ``torch.optim.SGD`` bit by bit. Near an optimum the step does not shrink with the
    gradient: plain descent on x²/2 ends in a cycle of amplitude (lr/2)^(1/(1-H)).

    Args:
        params: As for ``torch.optim``.
        lr: Learning rate.
        momentum: Heavy ball.
        nesterov: Nesterov's momentum instead.
        H: The power, above 0; the source's are below 1. Groups may have their own.
        weight_decay: L2 penalty, added after the power is taken.

    Raises:
        ConfigurationError: H is out of range.
        ValueError: torch refuses another argument.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,  # noqa: FBT001, FBT002, RUF100  (as in torch.optim)
        H: float = 0.8,  # noqa: N803  (the source's letter)
        weight_decay: float = 0.0,
    ) -> None:
        self._power = H
        super().__init__(
            params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay
        )
        self.defaults["H"] = H


class PowerAMSGrad(_PowerGradient, torch.optim.Adam):
    """AMSGrad on sign(g)·|g|^H (Baiesi 2019, arXiv 1906.04787).

    Args:
        params: As for ``torch.optim``.
        lr: Learning rate.
        betas: As for Adam.
        eps: As for Adam.
        H: The power, above 0; the source's are below 1. Groups may have their own.
        weight_decay: L2 penalty, added after the power is taken.

    Raises:
        ConfigurationError: H is out of range.
        ValueError: torch refuses another argument.
    """

    def __init__(
        self,
        params: Parameters,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        H: float = 0.8,  # noqa: N803  (the source's letter)
        weight_decay: float = 0.0,
    ) -> None:
        self._power = H
        super().__init__(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=True
        )
        self.defaults["H"] = H
