"""The compiled program that breeds offspring, where there is one with the same bits as tensors."""

from __future__ import annotations

import functools
import logging
import math
from typing import TypedDict

import torch

from optuna_esgd.draws import NormalRows
from optuna_esgd.genome.averages import average_two
from optuna_esgd.genome.dtypes import bits
from optuna_esgd.native.recombination import Recombination, build_recombination

_logger = logging.getLogger(__name__)


class _Like(TypedDict):
    dtype: torch.dtype
    device: torch.device


@functools.cache
def find_recombination() -> Recombination | None:
    """The compiled program, if there is a compiler; tensors do the same, bit by bit."""
    program = build_recombination()
    if not isinstance(program, str) and not _agrees(program):
        program = "the program and tensors disagree"
    if isinstance(program, str):
        _logger.debug("Offspring are bred by tensors: %s.", program)
        return None
    return program


def _agrees(program: Recombination) -> bool:
    """Whether this compiler's program gives the same bits, as all that keep to C's rules do."""
    n, tiny, largest = 1001, torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max
    like: _Like = {"dtype": torch.float32, "device": torch.device("cpu")}
    pool = torch.linspace(-2, 2, 2 * n, **like).view(2, n)
    pool[:, :6] = torch.tensor([-0.0, tiny / 3, tiny, 1e30, largest, math.inf], **like)
    pool[0, :3] = torch.tensor([0.0, tiny / 5, -tiny / 7], **like)
    families, seeds = [[0, 1], [1, 1]], [5, 6]
    for scale in (0.0, 0.3):
        bred, expected = torch.empty(2, n, **like), torch.empty(2, n, **like)
        program.breed(pool, families, seeds, scale=scale, first_piece=3, out=bred)
        for family, seed, out in zip(families, seeds, expected, strict=True):
            average_two([pool[row] for row in family], out)
            if scale > 0:
                noise = torch.empty(n, **like)
                out.add_(NormalRows().fill(noise, seed, scale=scale, first_piece=3))
        if not torch.equal(bits(bred), bits(expected)):
            return False
    return True
