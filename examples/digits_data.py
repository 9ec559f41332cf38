"""Scikit-learn's handwritten digits and small networks: what the examples here share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import nn

Examples = tuple[torch.Tensor, torch.Tensor]
BATCH_SIZE = 32


def load_examples(
    seed: int = 0, *, label_noise: float = 0.0
) -> tuple[Examples, Examples, Examples]:
    """600 training, 400 validation and 797 test images (8 × 8 grey values) with their labels.

    Args:
        seed: Draws the split, and the noise.
        label_noise: Share of the training labels that are replaced by random ones.
    """
    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images / 16.0, dtype=torch.float32)
    targets = torch.tensor(labels)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(inputs), generator=generator)
    train, validation, test = order.split([600, 400, 797])
    noisy = targets[train].clone()
    chosen = torch.randperm(600, generator=generator)[: round(600 * label_noise)]
    noisy[chosen] = torch.randint(10, (len(chosen),), generator=generator)
    return (
        (inputs[train], noisy),
        (inputs[validation], targets[validation]),
        (inputs[test], targets[test]),
    )


def build_mlp() -> nn.Module:
    """A multi-layer perceptron 64-64-64-10."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def build_cnn() -> nn.Module:
    """Two convolutions of 8 and 16 channels with batch-norm and pooling, then a linear layer."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64, 10)),
    )


def error_rate(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Share of wrong answers in a batch."""
    return (outputs.argmax(-1) != targets).float().mean()


class Variant(NamedTuple):
    """A network, the noise it learns from, and settings for SGD that suit it."""

    build_model: Callable[[], nn.Module]
    label_noise: float
    settings: dict[str, Any]


VARIANTS = {
    "mlp": Variant(build_mlp, 0.0, {"lr": 0.1, "momentum": 0.9}),
    "noisy_mlp": Variant(build_mlp, 0.3, {"lr": 0.1, "momentum": 0.9}),
    "cnn": Variant(build_cnn, 0.0, {"lr": 0.1, "momentum": 0.9}),
    "noisy_cnn": Variant(build_cnn, 0.3, {"lr": 0.01, "momentum": 0.9}),
}
