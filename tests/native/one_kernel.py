"""Losses and gradients of one kernel as a digest: the same in every process."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from tests.native.builds import make_kernel, rows_of


def build() -> nn.Module:
    """A network with everything that is computed by functions of our own."""
    return nn.Sequential(nn.Linear(13, 33), nn.Tanh(), nn.Dropout(0.2), nn.Linear(33, 5))


def digest() -> str:
    """Of what is computed for a few rows."""
    torch.manual_seed(1)
    weights = rows_of(build, 4)
    inputs, targets = torch.randn(40, 13), torch.randint(5, (40,))
    numbers = torch.stack([torch.randperm(40)[:29] for _ in range(4)])
    gradients = torch.empty_like(weights)
    kernel = make_kernel(build(), "cross_entropy", 32)
    losses = kernel.train(weights, inputs, targets, numbers, gradients, torch.arange(4))
    scores = kernel.losses(weights, inputs, targets)
    made = hashlib.sha256()
    for one in (losses, gradients, scores):
        made.update(one.contiguous().numpy().tobytes())
    return made.hexdigest()


if __name__ == "__main__":
    print(digest())
