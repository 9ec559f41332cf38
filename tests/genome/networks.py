"""Networks of every kind that a genome must hold, each with a batch to feed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix


class Convolutional(nn.Module):
    """Convolution, batch-norm, channel dropout, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.25)
        )
        self.projection = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.projection(self.features(inputs).mean((2, 3))))


class Language(nn.Module):
    """Embedding tied to the output layer, GRU with dropout between its layers, layer-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 5)
        self.recurrent = nn.GRU(5, 5, num_layers=2, dropout=0.4, batch_first=True)
        self.norm = nn.LayerNorm(5)
        self.output = nn.Linear(5, 7, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(self.norm(self.recurrent(self.embedding(inputs))[0]))


class Mixed(nn.Module):
    """Everything at once that has no place among parameters of one type."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.scale = nn.Parameter(torch.tensor(1.5))  # 0-dim
        self.wide = nn.Parameter(torch.randn(6, dtype=torch.float64))
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(6, 3)
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("constant", torch.randn(5))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.dropout(self.norm(inputs) * self.scale) * self.wide.float()
        return self.head(hidden)


class Attentive(nn.Module):
    """Self-attention with dropout on its weights, and alpha dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True)
        self.dropout = nn.AlphaDropout(0.2)
        self.head = nn.Linear(6, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        mixed, _ = self.attention(inputs, inputs, inputs, need_weights=False)
        weighted, _ = self.attention(inputs, mixed, mixed)
        return self.head(self.dropout(weighted).mean(1))


class Case(NamedTuple):
    """A network and a batch for it."""

    build: Callable[[], nn.Module]
    batch: Callable[[], Tensor]


CASES = {
    "convolutional": Case(Convolutional, lambda: torch.randn(5, 2, 6, 6)),
    "language": Case(Language, lambda: torch.randint(7, (5, 4))),
    "mixed": Case(Mixed, lambda: torch.randn(5, 6)),
    "attentive": Case(Attentive, lambda: torch.randn(5, 4, 6)),
}


def filled_matrix(build: Callable[[], nn.Module], n_rows: int, seed: int = 0) -> Matrix:
    """A matrix whose rows are freshly initialised models."""
    torch.manual_seed(seed)
    models = [build() for _ in range(n_rows)]
    matrix = Matrix.zeros(Layout.of(models[0]), n_rows)
    for row, model in enumerate(models):
        matrix.take_from(model, row)
    return matrix


def assert_same_bits(ours: Tensor, theirs: Tensor) -> None:
    """Equal element by element, NaN and signs of zero included."""
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    ours, theirs = (one.contiguous().view(-1).view(torch.uint8) for one in (ours, theirs))
    assert torch.equal(ours, theirs)
