"""Handwritten digits and a small network: what contenders of ``end_to_end`` train.

Needs torch and scikit-learn only, so that other environments can read it.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

BATCH_SIZE = 32
N_TRAIN = 1408  # 44 batches


def read_digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(inputs, targets) to train with, and to validate with: 1408 and 389 of them."""
    digits = load_digits()
    inputs = torch.tensor(digits.data, dtype=torch.float32) / 16
    targets = torch.tensor(digits.target)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    inputs, targets = inputs[order], targets[order]
    return (inputs[:N_TRAIN], targets[:N_TRAIN]), (inputs[N_TRAIN:], targets[N_TRAIN:])


def build_model() -> nn.Module:
    """64-64-10."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, train: tuple[Tensor, Tensor]
) -> None:
    """One pass over the data in a new order, as everybody writes it."""
    inputs, targets = train
    for batch in torch.randperm(len(inputs)).split(BATCH_SIZE):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()


@torch.no_grad()
def validate(model: nn.Module, validation: tuple[Tensor, Tensor]) -> float:
    """Mean cross entropy."""
    inputs, targets = validation
    return float(nn.functional.cross_entropy(model(inputs), targets))
