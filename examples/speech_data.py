"""Digits spoken by 60 synthetic voices in noise: what the speech examples share.

The archive is made by speech_features.py. Training, validation and test have different speakers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

Examples = tuple[Tensor, Tensor]
Split = tuple[Examples, Examples, Examples]

ARCHIVE = Path(__file__).parent / "archives" / "spoken_digits.npz"
N_SPEAKERS = {"train": 36, "validation": 12, "test": 12}
N_BANDS = 20
N_CONTEXT = 4  # frames on either side of the one that is classified
N_STATES = 3  # parts of a word, equally long
FRAME_STRIDE = 2
N_FRAMES = 45


def draw_speakers(seed: int) -> list[Tensor]:
    """Numbers of those who are heard in training, in validation, and in the test."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(sum(N_SPEAKERS.values()), generator=generator)
    return list(order.split(list(N_SPEAKERS.values())))


def load_utterances(seed: int = 0) -> list[tuple[list[Tensor], Tensor]]:
    """Training, validation and test: (frames, bands) features per utterance, and (n,) digits.

    Args:
        seed: Draws who is heard in training, in validation, and in the test.
    """
    with np.load(ARCHIVE) as archive:
        features = torch.tensor(archive["features"].astype(np.float32))
        utterances = features.split(archive["n_frames"].tolist())
        digits = torch.tensor(archive["digit"].astype(np.int64))
        speakers = torch.tensor(archive["speaker"].astype(np.int64))
    chosen = [torch.isin(speakers, part).nonzero()[:, 0].tolist() for part in draw_speakers(seed)]
    heard = torch.cat([utterances[number] for number in chosen[0]])
    mean, deviation = heard.mean(0), heard.std(0)
    return [
        ([(utterances[number] - mean) / deviation for number in numbers], digits[numbers])
        for numbers in chosen
    ]


def load_frames(seed: int = 0) -> Split:
    """Every second frame with its neighbours, (n, 9 × 20), and which third of which digit it is.

    The thirds stand in for the states that an aligned speech corpus would have.
    """
    train, validation, test = (_cut_frames(*part) for part in load_utterances(seed))
    return train, validation, test


def load_sequences(seed: int = 0) -> Split:
    """Whole utterances, (n, 45, 20), filled up with zeros, and their digits.

    Of a hundred one is longer than 45 frames; what is after them is left out.
    """
    train, validation, test = (
        (torch.stack([_pad(one, 0, N_FRAMES - len(one)) for one in utterances]), digits)
        for utterances, digits in load_utterances(seed)
    )
    return train, validation, test


def _cut_frames(utterances: list[Tensor], digits: Tensor) -> Examples:
    inputs, targets = [], []
    for utterance, digit in zip(utterances, digits.tolist(), strict=True):
        windows = _pad(utterance, N_CONTEXT, N_CONTEXT).unfold(0, 2 * N_CONTEXT + 1, 1)
        states = torch.arange(len(utterance)) * N_STATES // len(utterance)
        inputs.append(windows.flatten(1)[::FRAME_STRIDE])
        targets.append((digit * N_STATES + states)[::FRAME_STRIDE])
    return torch.cat(inputs), torch.cat(targets)


def _pad(utterance: Tensor, before: int, after: int) -> Tensor:
    return nn.functional.pad(utterance, (0, 0, before, after))


def build_dnn() -> nn.Module:
    """A multi-layer perceptron 180-64-64-30 on one frame and its neighbours."""
    n_inputs = (2 * N_CONTEXT + 1) * N_BANDS
    return nn.Sequential(
        nn.Linear(n_inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 30)
    )


class SequenceClassifier(nn.Module):
    """An LSTM over the frames of an utterance; its mean output says which digit it was."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(N_BANDS, 32, batch_first=True)
        self.output = nn.Linear(32, 10)

    def forward(self, frames: Tensor) -> Tensor:
        states, _ = self.lstm(frames)
        logits: Tensor = self.output(states.mean(1))
        return logits


def error_rate(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of wrong answers in a batch."""
    return (outputs.argmax(-1) != targets).float().mean()


class Variant(NamedTuple):
    """A network, what it reads, and settings for Adam that suit it."""

    build_model: Callable[[], nn.Module]
    load_examples: Callable[[int], Split]
    batch_size: int
    settings: dict[str, Any]


VARIANTS = {
    "dnn": Variant(build_dnn, load_frames, 128, {"lr": 0.001}),
    "lstm": Variant(SequenceClassifier, load_sequences, 32, {"lr": 0.01}),
}
