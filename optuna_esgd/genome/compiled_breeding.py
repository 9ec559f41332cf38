"""The compiled program that breeds offspring, where there is one with the same bits as tensors."""

from __future__ import annotations

import functools
import logging
import math

import torch

from optuna_esgd.draws import NormalRows
from optuna_esgd.genome.averages import average_two
from optuna_esgd.genome.dtypes import bits
from optuna_esgd.native.recombination import Recombination, build_recombination

_logger = logging.getLogger(__name__)


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
    pool = torch.linspace(-2, 2, 2 * n, dtype=torch.float32, device="cpu").view(2, n)
    pool[:, :6] = pool.new_tensor([-0.0, tiny / 3, tiny, 1e30, largest, math.inf])
    pool[0, :3] = pool.new_tensor([0.0, tiny / 5, -tiny / 7])
    families, seeds = [[0, 1], [1, 1]], [5, 6]
    bred, expected, noise = pool.clone(), pool.clone(), pool[0].clone()
    for scale in (0.0, 0.3):
        program.breed(pool, families, seeds, scale=scale, first_piece=3, out=bred)
        for family, seed, out in zip(families, seeds, expected, strict=True):
            average_two([pool[row] for row in family], out)
            if scale > 0:
                out.add_(NormalRows().fill(noise, seed, scale=scale, first_piece=3))
        if not torch.equal(bits(bred), bits(expected)):
            return False
    return True
