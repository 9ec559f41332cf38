"""Momentum to escape saddle points, annealed near the optimum (Liu, Chen, Zhou, Zhao 2021).

The claim of "A Diffusion Approximation Theory of Momentum SGD in Nonconvex Optimization" is that
momentum helps to escape saddle points and hurts near optima, unless it or the step size is
annealed. The schedule below is ours.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from optuna_esgd.errors import ConfigurationError

AnnealingMode = Literal["momentum", "step_size", "both"]


class MomentumAnnealingLR(LRScheduler):
    """Holds a high momentum for a while, then anneals momentum, step size, or both.

    For ``escape_steps`` the momentum is ``mu_escape``. Over the next ``anneal_steps`` an annealed
    momentum μ_t goes linearly from there to ``mu_converge``. Mode ``"momentum"`` sets the momentum
    to μ_t. ``"step_size"`` leaves the momentum and multiplies the learning rate by
    (1 - ``mu_escape``) / (1 - μ_t), so that the effective step η/(1 - μ) becomes that of momentum
    ``mu_converge``. ``"both"`` does both.

    Near an optimum the variance of the iterates falls with either (see ``heavy_ball_variance``).
    Annealing the momentum at constant η/(1 - μ), which some schedules do, gains nothing.

    Args:
        optimizer: With ``momentum`` or ``betas`` in its groups; of betas the first is set.
        escape_steps: Steps at ``mu_escape``, 0 or more.
        anneal_steps: Steps from there to ``mu_converge``, 0 to jump.
        mu_escape: Momentum at first, in [0, 1).
        mu_converge: Momentum at last, in [0, ``mu_escape``].
        mode: What is annealed.
        last_epoch: As in ``torch.optim.lr_scheduler``: the last step done, -1 to begin.

    Raises:
        ConfigurationError: A number is out of range, or the optimizer has no momentum.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        escape_steps: int,
        anneal_steps: int = 0,
        mu_escape: float = 0.9,
        mu_converge: float = 0.0,
        mode: AnnealingMode = "momentum",
        last_epoch: int = -1,
    ) -> None:
        for name, steps in (("escape_steps", escape_steps), ("anneal_steps", anneal_steps)):
            if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
                raise ConfigurationError(f"{name} must be a whole number >= 0, got {steps!r}.")
        if not 0 <= mu_converge <= mu_escape < 1:
            raise ConfigurationError(
                "Momentum must fall from mu_escape to mu_converge within [0, 1), got "
                f"mu_escape={mu_escape}, mu_converge={mu_converge}."
            )
        if mode not in get_args(AnnealingMode):
            raise ConfigurationError(
                f"mode must be 'momentum', 'step_size' or 'both', got {mode!r}."
            )
        for group in optimizer.param_groups:
            if "momentum" not in group and "betas" not in group:
                raise ConfigurationError(
                    f"{type(optimizer).__name__} has neither momentum nor betas to anneal."
                )
        self.escape_steps = escape_steps
        self.anneal_steps = anneal_steps
        self.mu_escape = mu_escape
        self.mu_converge = mu_converge
        self.mode = mode
        super().__init__(optimizer, last_epoch)

    def annealed_momentum(self, step: int) -> float:
        """μ_t after ``step`` steps."""
        done = step - self.escape_steps
        if done < 0:
            return self.mu_escape
        if done >= self.anneal_steps:
            return self.mu_converge
        return self.mu_escape + (self.mu_converge - self.mu_escape) * done / self.anneal_steps

    def get_lr(self) -> list[Any]:
        """The learning rate of each group for the step to come."""
        if self.mode == "momentum":
            return [group["lr"] for group in self.optimizer.param_groups]
        annealed = self.annealed_momentum(self.last_epoch)
        factor = (1 - self.mu_escape) / (1 - annealed)
        return [base * factor for base in self.base_lrs]

    def step(self, epoch: int | None = None) -> None:
        """Advance by one step; learning rate and momentum are those of the step to come."""
        super().step(epoch)
        is_annealed = self.mode != "step_size"
        momentum = self.annealed_momentum(self.last_epoch) if is_annealed else self.mu_escape
        for group in self.optimizer.param_groups:
            if "momentum" in group:
                group["momentum"] = momentum
            else:
                group["betas"] = (momentum, *group["betas"][1:])


def heavy_ball_variance(lr: float, momentum: float, curvature: float, noise: float) -> float:
    """Stationary variance of x under v ← μ·v - η·(λ·x + s·ξ), x ← x + v, ξ ~ N(0, 1).

    η·s²·(1 + μ) / (λ·(1 - μ)·(2·(1 + μ) - η·λ)): exact for a quadratic, derived from the
    stationary covariance of (x, v).

    Args:
        lr: η, above 0.
        momentum: μ, in [0, 1).
        curvature: λ, above 0 and below 2·(1 + μ)/η, beyond which there is no stationary state.
        noise: s, standard deviation of the gradient's noise.

    Raises:
        ConfigurationError: There is no stationary state.
    """
    if not (lr > 0 and 0 <= momentum < 1 and 0 < lr * curvature < 2 * (1 + momentum)):
        raise ConfigurationError(
            "The heavy ball settles only for 0 < lr * curvature < 2 * (1 + momentum) with "
            f"momentum in [0, 1), got lr={lr}, momentum={momentum}, curvature={curvature}."
        )
    spread = 2 * (1 + momentum) - lr * curvature
    return lr * noise**2 * (1 + momentum) / (curvature * (1 - momentum) * spread)
