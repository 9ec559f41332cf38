"""Scikit-learn's handwritten digits and a small network: what the examples here share."""

import torch
from sklearn.datasets import load_digits
from torch import nn

Examples = tuple[torch.Tensor, torch.Tensor]


def load_examples(seed: int = 0) -> tuple[Examples, Examples, Examples]:
    """600 training, 400 validation and 797 test images (8 × 8 grey values) with their labels."""
    images, labels = load_digits(return_X_y=True)
    inputs = torch.tensor(images / 16.0, dtype=torch.float32)
    targets = torch.tensor(labels)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    train, validation, test = order.split([600, 400, 797])
    return (
        (inputs[train], targets[train]),
        (inputs[validation], targets[validation]),
        (inputs[test], targets[test]),
    )


def build_model() -> nn.Module:
    """A multi-layer perceptron 64-64-64-10."""
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )


def error_rate(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Share of wrong answers in a batch."""
    return (outputs.argmax(-1) != targets).float().mean()
