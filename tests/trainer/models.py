"""Small models of every kind, each with data it can be trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

N_EXAMPLES, N_CLASSES = 24, 3


class WithDropout(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 8), nn.Dropout(0.2)
        )
        self.head = nn.Linear(8, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(nn.functional.dropout(self.layers(inputs), 0.1, self.training))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.recurrent = kind(4, 8, batch_first=True)
        self.head = nn.Linear(8, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.recurrent(inputs)[0][:, -1])


class Branching(nn.Module):
    """Data-dependent control flow, which cannot be batched."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.layer(inputs)
        return outputs * 2 if outputs.sum() > 0 else outputs


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 6, bias=False)
        self.decoder = nn.Linear(6, 6, bias=False)
        self.decoder.weight = self.encoder.weight
        self.head = nn.Linear(6, N_CLASSES)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.decoder(torch.tanh(self.encoder(inputs))))


def _frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, N_CLASSES))
    model[0].weight.requires_grad_(False)
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, N_CLASSES)),
        (6,),
    ),
    "batch-norm": (
        lambda: nn.Sequential(
            nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, N_CLASSES)
        ),
        (6,),
    ),
    "dropout": (WithDropout, (6,)),
    "convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, N_CLASSES),
        ),
        (1, 6, 6),
    ),
    "embedding": (
        lambda: nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(20, N_CLASSES)),
        (5, -1),
    ),
    "layer-norm": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
        (6,),
    ),
    "gru": (lambda: Recurrent(nn.GRU), (5, 4)),
    "lstm": (lambda: Recurrent(nn.LSTM), (5, 4)),
    "branching": (Branching, (6,)),
    "tied": (Tied, (6,)),
    "frozen": (_frozen, (6,)),
}


def examples(name: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and labels for a model; the labels can be learnt."""
    generator = torch.Generator().manual_seed(seed)
    shape = MODELS[name][1]
    if shape[-1] == -1:
        inputs = torch.randint(0, 10, (N_EXAMPLES, *shape[:-1]), generator=generator)
        return inputs, inputs[:, 0] % N_CLASSES
    inputs = torch.randn(N_EXAMPLES, *shape, generator=generator)
    flat = inputs.flatten(1)
    return inputs, flat[:, :N_CLASSES].argmax(1)
