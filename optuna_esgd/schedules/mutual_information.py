"""A learning rate that falls as the network's answers tell more about the truth.

After Vasudevan, "Mutual Information Based Learning Rate Decay for Stochastic Gradient Descent
Training of Deep Neural Networks", Entropy 22(5):560 (2020): the mutual information between what a
network predicts and the true outcome sets a decaying learning rate. Estimator and rule are ours.

The rule is a ratchet: what it has to remember is how much of the truth is known, which means the
same whatever the bounds of the learning rate are. So an individual can inherit it from a parent
that trained with another rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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

    Attributes:
        information: I of each group when last measured, in nats; None before.
        known: The ratchet, of each group: the largest I/H(Y) at which I had settled, in [0, 1].
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
        self.known = [0.0] * len(optimizer.param_groups)
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
        return [self.lr_max - (self.lr_max - self.lr_min) * known for known in self.known]

    @property
    def memory(self) -> dict[str, Tensor]:
        """What is remembered between calls, as (groups,) float64 tensors; can be set."""
        memory = {"known": torch.tensor(self.known, dtype=torch.float64, device="cpu")}
        if self.information is not None:
            memory["information"] = torch.tensor(
                self.information, dtype=torch.float64, device="cpu"
            )
        return memory

    @memory.setter
    def memory(self, memory: Mapping[str, Tensor]) -> None:
        n_groups = len(self.optimizer.param_groups)
        for name, tensor in memory.items():
            if name not in ("known", "information") or tensor.shape != (n_groups,):
                raise ConfigurationError(
                    f"A memory has 'known' and 'information' of {n_groups} parameter groups, got "
                    f"{name!r} of shape {list(tensor.shape)}."
                )
        if "known" in memory:
            self.known = memory["known"].tolist()
        self.information = memory["information"].tolist() if "information" in memory else None

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
        all_there_is = entropy(targets)
        for group, now in enumerate(information):
            if before is None or not self._has_settled(before[group], now):
                continue
            known = now / all_there_is if all_there_is > 0 else 1.0  # one class: nothing to learn
            self.known[group] = max(self.known[group], known)

    def _has_settled(self, before: float, now: float) -> bool:
        return abs(now - before) <= self.threshold * abs(before)


def mutual_information_decay(
    optimizer: Optimizer, n_steps: int, *, floor: float = 0.01, threshold: float = 0.01
) -> MutualInformationLR:
    """The schedule of a population: from the individual's learning rate down to a share of it.

    Args:
        optimizer: One parameter group, whose learning rate is ``lr_max``.
        n_steps: Not needed: how far training has come is measured, not counted.
        floor: ``lr_min`` as a share of ``lr_max``, in (0, 1].
        threshold: See ``MutualInformationLR``.

    Raises:
        ConfigurationError: Numbers out of range.
    """
    del n_steps
    if not 0 < floor <= 1:
        raise ConfigurationError(f"floor must be in (0, 1], got {floor}.")
    rate = float(optimizer.param_groups[0]["lr"])
    return MutualInformationLR(optimizer, floor * rate, rate, threshold)
