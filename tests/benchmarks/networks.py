"""The networks that benchmarks train, and data of the right shape for them.

Nothing is learnt here, so the data are noise; how long a step takes does not depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own abbreviation)
from torch import Tensor, nn

import optuna_esgd as esgd

N_LETTERS = 64


class Residual(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016, section 4.2, option A for the shortcut)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.stride = n_out // n_in
        self.first = nn.Conv2d(n_in, n_out, 3, stride=self.stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(n_out)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(n_out)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.second_norm(self.second(F.relu(self.first_norm(self.first(inputs)))))
        shortcut = inputs
        if self.stride > 1:
            n_new = outputs.shape[-3] - inputs.shape[-3]
            shortcut = F.pad(inputs[..., ::2, ::2], (0, 0, 0, 0, 0, n_new))
        return F.relu(outputs + shortcut)


class CharacterModel(nn.Module):
    """Predicts each next letter from those before it."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 128) -> None:
        super().__init__()
        self.letters = nn.Embedding(N_LETTERS, width)
        self.recurrent = kind(width, width, batch_first=True)
        self.head = nn.Linear(width, N_LETTERS)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.recurrent(self.letters(inputs))[0])


def build_mlp() -> nn.Module:
    """64-64-10."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def build_cnn() -> nn.Module:
    """Two convolutions, each with pooling, on 28×28."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 10),
    )


def build_resnet20() -> nn.Module:
    """ResNet-20 for 32×32 (He et al. 2016, section 4.2)."""
    blocks = [Residual(n_in, n_out) for n_in, n_out in _widths()]
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def _widths() -> list[tuple[int, int]]:
    return [(16, 16)] * 3 + [(16, 32)] + [(32, 32)] * 2 + [(32, 64)] + [(64, 64)] * 2


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and how it is trained.

    Attributes:
        build: Makes one.
        shape: Of an example's input.
        n_classes: Of targets.
        is_text: Whether inputs are numbers of letters, and there is a target for each of them.
    """

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    n_classes: int = 10
    is_text: bool = False

    def task(self, *, n_examples: int, batch_size: int, precision: str) -> esgd.SupervisedTask:
        """What trains it, on noise."""
        return esgd.SupervisedTask(
            model=self.build,
            loss=letters_loss if self.is_text else F.cross_entropy,
            train=self.examples(n_examples, seed=0),
            validation=self.examples(min(n_examples, 256), seed=1),
            batch_size=batch_size,
            precision=precision,
        )

    def examples(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        generator = torch.Generator().manual_seed(seed)
        if self.is_text:
            text = torch.randint(N_LETTERS, (n, self.shape[0] + 1), generator=generator)
            return text[:, :-1].contiguous(), text[:, 1:].contiguous()
        inputs = torch.randn(n, *self.shape, generator=generator)
        return inputs, torch.randint(self.n_classes, (n,), generator=generator)


def letters_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, the mean over all letters."""
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


NETWORKS = {
    "MLP 64-64-10": Network(build=build_mlp, shape=(64,)),
    "CNN 28x28": Network(build=build_cnn, shape=(1, 28, 28)),
    "GRU 128": Network(build=partial(CharacterModel, nn.GRU), shape=(32,), is_text=True),
    "LSTM 128": Network(build=partial(CharacterModel, nn.LSTM), shape=(32,), is_text=True),
    "ResNet-20": Network(build=build_resnet20, shape=(3, 32, 32)),
}
