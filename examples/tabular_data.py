"""Scikit-learn's small tables and a network for them: what the tabular examples share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from torch import Tensor, nn

Examples = tuple[Tensor, Tensor]
BATCH_SIZE = 16


class Variant(NamedTuple):
    """A table, how many classes it has (0: a number is to be predicted), settings for Adam."""

    load: Callable[..., tuple[Any, Any]]
    n_features: int
    n_classes: int
    settings: dict[str, Any]

    def build_model(self) -> nn.Module:
        """A perceptron with one hidden layer of 32."""
        if self.n_classes == 0:
            return nn.Sequential(
                nn.Linear(self.n_features, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0)
            )
        return nn.Sequential(
            nn.Linear(self.n_features, 32), nn.Tanh(), nn.Linear(32, self.n_classes)
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, or the squared error where 1 is the variance of the targets."""
        if self.n_classes == 0:
            return nn.functional.mse_loss(outputs, targets)
        return nn.functional.cross_entropy(outputs, targets)


VARIANTS = {
    "diabetes": Variant(load_diabetes, 10, 0, {"lr": 0.001}),
    "breast_cancer": Variant(load_breast_cancer, 30, 2, {"lr": 0.003}),
    "wine": Variant(load_wine, 13, 3, {"lr": 0.1}),
}


def load_examples(name: str, seed: int = 0) -> tuple[Examples, Examples, Examples]:
    """A half for training, a quarter each for validation and test.

    Features are scaled by the mean and deviation of the training examples, and so are targets
    that are numbers.

    Args:
        name: Of a variant.
        seed: Draws the split.
    """
    variant = VARIANTS[name]
    features, answers = variant.load(return_X_y=True)
    inputs = torch.tensor(features, dtype=torch.float32)
    targets = torch.tensor(answers, dtype=torch.long if variant.n_classes else torch.float32)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    n_half, n_quarter = len(order) // 2, len(order) // 4
    parts = order.split([n_half, n_quarter, len(order) - n_half - n_quarter])
    inputs = _standardise(inputs, parts[0])
    if variant.n_classes == 0:
        targets = _standardise(targets, parts[0])
    train, validation, test = ((inputs[part], targets[part]) for part in parts)
    return train, validation, test


def _standardise(values: Tensor, train: Tensor) -> Tensor:
    return (values - values[train].mean(0)) / values[train].std(0)
