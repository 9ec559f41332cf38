"""Chapters of Python's language reference, letter by letter: what the language examples share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Examples = tuple[Tensor, Tensor]

ARCHIVE = Path(__file__).parent / "archives" / "python_reference.txt"
ALPHABET = "abcdefghijklmnopqrstuvwxyz .,:;()_=\"'"
N_CHARACTERS = 32  # read at once
SEQUENCES_PER_BLOCK = 16
N_BLOCKS = {"train": 119, "validation": 30, "test": 30}
BATCH_SIZE = 32


def read_text() -> str:
    """The text in the letters of ``ALPHABET``, without the lines drawn below its headings."""
    text = ARCHIVE.read_text(encoding="utf-8").lower()
    text = re.sub(f"[^{re.escape(ALPHABET)}]", " ", text)
    return " ".join(re.sub(r"([^a-z ])\1\1+", " ", text).split())


def load_examples(seed: int = 0) -> tuple[Examples, Examples, Examples]:
    """Sequences of 32 letters, (n, 32), and for each letter the next one.

    The text is cut into blocks of 512 letters, so that what is held out is not the other half of a
    training sentence.

    Args:
        seed: Draws which blocks are for training, for validation, and for the test.
    """
    letters = torch.tensor([ALPHABET.index(letter) for letter in read_text()])
    length = N_CHARACTERS * SEQUENCES_PER_BLOCK
    blocks = letters[: (len(letters) - 1) // length * length].view(-1, length)
    following = letters[1 : blocks.numel() + 1].view(-1, length)
    order = torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed))
    train, validation, test = (
        (blocks[part].view(-1, N_CHARACTERS), following[part].view(-1, N_CHARACTERS))
        for part in order[: sum(N_BLOCKS.values())].split(list(N_BLOCKS.values()))
    )
    return train, validation, test


class LSTMModel(nn.Module):
    """Reads letters, and says after each what the next may be."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), 24)
        self.lstm = nn.LSTM(24, 64, batch_first=True)
        self.output = nn.Linear(64, len(ALPHABET))

    def forward(self, letters: Tensor) -> Tensor:
        states, _ = self.lstm(self.embedding(letters))
        logits: Tensor = self.output(states)
        return logits


class TransformerModel(nn.Module):
    """The same with two layers of causal attention."""

    causal_mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(ALPHABET), 32)
        self.position = nn.Parameter(0.02 * torch.randn(N_CHARACTERS, 32))
        layer = nn.TransformerEncoderLayer(
            d_model=32, nhead=2, dim_feedforward=64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.output = nn.Linear(32, len(ALPHABET))
        mask = nn.Transformer.generate_square_subsequent_mask(N_CHARACTERS)
        self.register_buffer("causal_mask", mask, persistent=False)

    def forward(self, letters: Tensor) -> Tensor:
        inputs = self.embedding(letters) + self.position
        logits: Tensor = self.output(self.layers(inputs, mask=self.causal_mask))
        return logits


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Nats per letter, the mean over a batch."""
    return nn.functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())


def perplexity(nats_per_letter: float) -> float:
    """Among how many equally likely letters the model still hesitates."""
    return math.exp(nats_per_letter)


class Variant(NamedTuple):
    """A network, and settings for Adam that suit it."""

    build_model: Callable[[], nn.Module]
    settings: dict[str, Any]


VARIANTS = {
    "lstm": Variant(LSTMModel, {"lr": 0.02}),
    "transformer": Variant(TransformerModel, {"lr": 0.012}),
}
