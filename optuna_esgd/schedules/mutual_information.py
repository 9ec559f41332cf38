"""A learning rate that falls as the network's answers tell more about the truth.

After Vasudevan, "Mutual Information Based Learning Rate Decay for Stochastic Gradient Descent
Training of Deep Neural Networks", Entropy 22(5):560 (2020): the mutual information between what a
network predicts and the true outcome sets a decaying learning rate. Estimator and rule are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from optuna_esgd.errors import ConfigurationError


def entropy(labels: Tensor) -> float:
    """H of the empirical distribution of labels, in nats."""
    _, counts = torch.unique(labels, return_counts=True)
    shares = counts.double() / labels.numel()
    return float(-(shares * shares.log()).sum())


def mutual_information(predictions: Tensor, targets: Tensor) -> float:
    """I of predicted and true classes under their empirical joint distribution, in nats.

    I = H(prediction) + H(target) - H(both), from counts (the plug-in estimate: with few examples
    per pair of classes it comes out too high).

    Args:
        predictions: (examples,) predicted classes, or (examples, classes) scores, of which the
            largest one is the prediction.
        targets: (examples,) true classes.

    Returns:
        In [0, H(target)].

    Raises:
        ConfigurationError: No examples, or not one prediction per target.
    """
    classes = predictions.argmax(-1) if predictions.dim() == 2 else predictions
    if targets.dim() != 1 or classes.shape != targets.shape or len(targets) == 0:
        raise ConfigurationError(
            "There must be one prediction (or one row of class scores) per true class, got "
            f"predictions of shape {list(predictions.shape)} and targets of shape "
            f"{list(targets.shape)}."
        )
    _, first = torch.unique(classes, return_inverse=True)
    _, second = torch.unique(targets, return_inverse=True)
    joint = first * len(targets) + second
    information = entropy(first) + entropy(second) - entropy(joint)
    return min(max(information, 0.0), entropy(second))


class MutualInformationLR(LRScheduler):
    """Lowers the learning rate whenever the mutual information stops growing.

    ``step(predictions, targets)`` measures I. Where its relative change since the last call is
    below ``threshold``, lr ← min(lr, lr_min + (lr_max - lr_min)·(1 - I/H(Y))): the rate goes with
    what is left to learn and never rises. Begins at ``lr_max``, in place of the optimizer's own
    learning rates.

    Args:
        optimizer: Its groups get the learning rate.
        lr_min: Where a perfect network ends, above 0.
        lr_max: Where training begins, at least ``lr_min``; both bounds come from
            ``lr_range_test``.
        threshold: Relative change of I below which the rate is lowered, at least 0.
        layerwise: Whether each parameter group has an information of its own, so that layers that
            know enough slow down first; then ``step`` takes one set of predictions per group
            (e.g. of a linear probe on the layer).

    Raises:
        ConfigurationError: Bounds or threshold out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        lr_min: float,
        lr_max: float,
        threshold: float = 0.01,
        layerwise: bool = False,
    ) -> None:
        if not 0 < lr_min <= lr_max < math.inf:
            raise ConfigurationError(
                f"Learning rates need 0 < lr_min <= lr_max, got [{lr_min}, {lr_max}]."
            )
        if not threshold >= 0:
            raise ConfigurationError(f"threshold must be 0 or more, got {threshold}.")
        self.lr_min = lr_min
        self.lr_max = lr_max
        self.threshold = threshold
        self.layerwise = layerwise
        self.information: list[float] | None = None
        self._rates = [float(lr_max)] * len(optimizer.param_groups)
        super().__init__(optimizer)

    def step(
        self,
        predictions: Any = None,
        targets: Tensor | None = None,
    ) -> None:
        """Measure the information and set the learning rates.

        Args:
            predictions: See ``mutual_information``; a sequence of them, one per parameter group,
                where ``layerwise``. None only in torch's own first call.
            targets: (examples,) true classes.

        Raises:
            ConfigurationError: Nothing to measure, or not one set of predictions per group.
        """
        if self.last_epoch >= 0:
            self._measure(predictions, targets)
        super().step()

    def get_lr(self) -> list[Any]:
        """The learning rate of each group for the step to come."""
        return list(self._rates)

    def _measure(self, predictions: Any, targets: Tensor | None) -> None:
        n_groups = len(self.optimizer.param_groups)
        if predictions is None or targets is None:
            raise ConfigurationError("step() needs predictions and targets to measure.")
        each: Sequence[Tensor] = predictions if self.layerwise else [predictions] * n_groups
        if self.layerwise and (isinstance(predictions, Tensor) or len(predictions) != n_groups):
            raise ConfigurationError(
                f"layerwise needs one set of predictions for each of the {n_groups} parameter "
                f"groups, got {type(predictions).__name__} of length {len(predictions)}."
            )
        information = [mutual_information(one, targets) for one in each]
        before = self.information
        self.information = information
        unknown = entropy(targets)
        for group, now in enumerate(information):
            if before is None or not self._has_settled(before[group], now):
                continue
            known = now / unknown if unknown > 0 else 1.0  # one class only: nothing to learn
            rate = self.lr_min + (self.lr_max - self.lr_min) * (1 - known)
            self._rates[group] = min(self._rates[group], rate)

    def _has_settled(self, before: float, now: float) -> bool:
        return abs(now - before) <= self.threshold * abs(before)
