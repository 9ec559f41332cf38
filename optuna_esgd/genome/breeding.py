"""Intermediate recombination with mutation (Cui et al. 2018, Eq. 9).

Notation: an offspring has ρ parents θ_1 .. θ_ρ and becomes θ = (1/ρ) Σ θ_j + σ·ε, ε ~ N(0, I).

Every element is computed in the same order whichever offspring are bred in the same call, so what
an offspring is depends on its parents and its seed alone, bit by bit: no matrix product, no fused
multiply-add whose use would depend on an element's place, and noise drawn in pieces of fixed
width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.genome.dtypes import bits
from optuna_esgd.genome.layout import Block
from optuna_esgd.genome.matrix import Matrix

# The columns averaged and mutated at a time. Part of the result: another width, other noise.
_N_COLUMNS = 2**14
_N_ELEMENTS = 2**17  # of offspring x columns in temporary memory


@torch.no_grad()
def breed(
    pool: Matrix,
    parents: Sequence[Sequence[int]] | Tensor,
    *,
    scales: Sequence[float],
    seeds: Sequence[int],
) -> Matrix:
    """Breed offspring: the mean of their parents, mutated.

    Floating-point tensors are averaged (16-bit and narrower ones in float32), others copied from
    the first parent. Noise goes to trainable parameters only. Where all parents agree, as in
    constants kept in buffers, the mean is exactly their value. With one parent this is a perturbed
    copy, and with σ = 0 an exact one.

    Args:
        pool: The parents, among other rows maybe.
        parents: (offspring, ρ) row numbers into ``pool``.
        scales: σ of each offspring, 0 for no mutation.
        seeds: Seed of each offspring's noise.

    Returns:
        A matrix with one row per offspring, on the pool's device.

    Raises:
        ConfigurationError: Rows that do not exist, no parents, σ negative or not finite, or
            unequal numbers of offspring, scales and seeds.
    """
    families = _check_parents(parents, pool.n_rows)
    if not len(families) == len(scales) == len(seeds):
        raise ConfigurationError(
            f"Each offspring needs one scale and one seed, got {len(families)} offspring, "
            f"{len(scales)} scales and {len(seeds)} seeds."
        )
    for scale in scales:
        if not (math.isfinite(scale) and scale >= 0):
            raise ConfigurationError(f"Mutation scales must be finite and >= 0, got {scale}.")
    offspring = Matrix.zeros(pool.layout, len(families), pool.device)
    if not families:
        return offspring
    index = torch.tensor(families, device=pool.device)
    generators = [torch.Generator(pool.device).manual_seed(int(seed)) for seed in seeds]
    for block in pool.layout.blocks:
        source, target = pool.blocks[block.dtype], offspring.blocks[block.dtype]
        if block.dtype.is_floating_point:
            _breed_block(block, source, target, index, list(map(float, scales)), generators)
        else:
            torch.index_select(bits(source), 0, index[:, 0], out=bits(target))
    return offspring


def _breed_block(
    block: Block,
    source: Tensor,
    target: Tensor,
    parents: Tensor,
    scales: list[float],
    generators: list[torch.Generator],
) -> None:
    """Fill one floating-point block, a piece of (some offspring, some columns) at a time."""
    for columns, is_trainable in _pieces(block):
        width = columns.stop - columns.start
        n_offspring = max(1, _N_ELEMENTS // width)
        for first in range(0, len(scales), n_offspring):
            rows = slice(first, first + n_offspring)
            values = _mean(source[:, columns], parents[rows])
            if is_trainable:
                _add_noise(values, scales[rows], generators[rows])
            target[rows, columns] = values.to(target.dtype)


def _pieces(block: Block) -> list[tuple[slice, bool]]:
    """Columns to work on at a time, and whether they are trainable."""
    pieces = []
    for start, end, is_trainable in (
        (0, block.n_trainable, True),
        (block.n_trainable, block.width, False),
    ):
        pieces += [
            (slice(column, min(column + _N_COLUMNS, end)), is_trainable)
            for column in range(start, end, _N_COLUMNS)
        ]
    return pieces


def _mean(source: Tensor, parents: Tensor) -> Tensor:
    """(offspring, columns) the parents' mean, as θ_1 + Σ (θ_j − θ_1) / ρ.

    Unlike the sum divided by ρ, this is exact where all parents agree.
    """
    n_parents = parents.shape[1]
    first = _gather(source, parents[:, 0])
    if n_parents == 1:
        return first
    differences = _gather(source, parents[:, 1]).sub_(first)
    for j in range(2, n_parents):
        differences.add_(_gather(source, parents[:, j]).sub_(first))
    return first.add_(differences.div_(n_parents))


def _gather(source: Tensor, rows: Tensor) -> Tensor:
    """The rows in the precision they are averaged in."""
    gathered = bits(source).index_select(0, rows).view(source.dtype)
    return gathered if source.element_size() >= 4 else gathered.float()


def _add_noise(values: Tensor, scales: list[float], generators: list[torch.Generator]) -> None:
    """Add σ·ε to each row, ε from its own generator."""
    noise = torch.empty_like(values[0])
    for row, scale, generator in zip(values, scales, generators, strict=True):
        if scale > 0:  # also: adding a zero would turn -0.0 into 0.0
            row.add_(noise.normal_(generator=generator).mul_(scale))


def _check_parents(parents: Sequence[Sequence[int]] | Tensor, n_rows: int) -> list[list[int]]:
    given = parents.tolist() if isinstance(parents, Tensor) else parents
    families = [[int(row) for row in family] for family in given]
    if any(not family or len(family) != len(families[0]) for family in families):
        raise ConfigurationError(
            "All offspring must have the same number of parents, at least one, got "
            f"{sorted({len(family) for family in families})}."
        )
    for row in (row for family in families for row in family):
        if not 0 <= row < n_rows:
            raise ConfigurationError(f"There is no parent in row {row} of a pool of {n_rows}.")
    return families
