"""Intermediate recombination with mutation (Cui et al. 2018, Eq. 9).

Notation: an offspring has ρ parents θ_1 .. θ_ρ and becomes θ = (1/ρ) Σ θ_j + σ·ε, ε ~ N(0, I).

Every element is computed by the same rounded operations whichever offspring are bred in the same
call, wherever and in whatever pieces, so what an offspring is depends on its parents and its seed
alone, bit by bit, on every processor and device: no matrix product, no fused multiply-add, and
noise from ``NormalRows``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from optuna_esgd.draws import PIECE, NormalRows
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.genome.averages import average, average_two, keep_infinities
from optuna_esgd.genome.compiled_breeding import find_recombination
from optuna_esgd.genome.dtypes import bits
from optuna_esgd.genome.layout import Block
from optuna_esgd.genome.matrix import Matrix

# Columns bred at a time, a multiple of PIECE: one piece of a few rows stays in a processor's
# cache; a GPU is asked for more at once.
_N_COLUMNS_CPU, _N_COLUMNS_ELSEWHERE = PIECE, 2**22


@torch.no_grad()
def breed(
    pool: Matrix,
    parents: Sequence[Sequence[int]] | Tensor,
    *,
    scales: Sequence[float],
    seeds: Sequence[int],
    out: Matrix | None = None,
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
        seeds: Seed of each offspring's noise, from 0 to 2^63 - 1.
        out: Where to put them: one row per offspring, on the pool's device, sharing no memory
            with the pool. Made anew if not given.

    Returns:
        ``out``: a matrix with one row per offspring.

    Raises:
        ConfigurationError: Rows that do not exist, no parents, σ negative or not finite, unequal
            numbers of offspring, scales and seeds, or an ``out`` of another size or layout.
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
    if out is None:
        out = Matrix.zeros(pool.layout, len(families), pool.device)
    elif out.n_rows != len(families) or out.layout != pool.layout:
        raise ConfigurationError(
            f"{len(families)} offspring need a matrix of as many rows and the parents' layout, "
            f"got {out.n_rows} rows."
        )
    if not families:
        return out
    breeder = _Breeder(pool.device, families, list(map(float, scales)), list(map(int, seeds)))
    for block in pool.layout.blocks:
        source, target = pool.blocks[block.dtype], out.blocks[block.dtype]
        if block.dtype.is_floating_point:
            breeder.breed_block(block, source, target)
        else:
            first_parents = torch.tensor([family[0] for family in families], device=pool.device)
            target.copy_(bits(source).index_select(0, first_parents).view(target.dtype))
    return out


class _Breeder:
    """Breeds one floating-point block after the other, piece by piece, in memory it keeps.

    Args:
        device: Where the weights are.
        families: (offspring, ρ) row numbers of parents.
        scales: σ of each offspring.
        seeds: Of each offspring.
    """

    def __init__(
        self,
        device: torch.device,
        families: list[list[int]],
        scales: list[float],
        seeds: list[int],
    ) -> None:
        self._families = families
        self._scales = scales
        self._seeds = seeds
        self._n_columns = _N_COLUMNS_CPU if device.type == "cpu" else _N_COLUMNS_ELSEWHERE
        self._normals = NormalRows(device)
        self._first_piece = 0  # of noise, over all blocks
        self._device = device

    def breed_block(self, block: Block, source: Tensor, target: Tensor) -> None:
        """Fill the offspring's rows of one block."""
        n_natively = self._breed_natively(block, source, target)
        if n_natively == block.width:
            return
        width = min(self._n_columns, block.width)
        # 16-bit and narrower numbers are averaged in float32.
        precision = block.dtype if block.dtype.itemsize >= 4 else torch.float32
        scratch = torch.empty(3, width, dtype=precision, device=self._device)
        noise = torch.empty(width, dtype=torch.float32, device=self._device)
        for columns, is_trainable in self._pieces(block, n_natively):
            parents, offspring = source[:, columns].unbind(), target[:, columns].unbind()
            n = columns.stop - columns.start
            for child, family, scale, seed in zip(
                offspring, self._families, self._scales, self._seeds, strict=True
            ):
                values = child if child.dtype == precision else scratch[2, :n]
                members = [parents[row] for row in family]
                if len(members) == 1:
                    values.copy_(members[0])
                elif len(members) == 2 and is_trainable:
                    average_two(members, values)
                else:
                    average(members, values, scratch[:, :n])
                    if not is_trainable:
                        keep_infinities(members, values)
                if is_trainable and scale > 0:  # also: adding a zero would turn -0.0 into 0.0
                    values.add_(
                        self._normals.fill(
                            noise[:n], seed, scale=scale, first_piece=self._first_piece
                        )
                    )
                if values is not child:
                    child.copy_(values)
            if is_trainable:
                self._first_piece += -(-n // PIECE)

    def _breed_natively(self, block: Block, source: Tensor, target: Tensor) -> int:
        """Breed trainable columns by the compiled program, where it can; returns how many."""
        is_usual = block.dtype == torch.float32 and self._device.type == "cpu"
        if not (is_usual and block.n_trainable and len(self._families[0]) <= 2):
            return 0
        program = find_recombination()
        if program is None:
            return 0
        end = 0
        for scale, run in itertools.groupby(self._scales):
            start, end = end, end + len(list(run))
            program.breed(
                source[:, : block.n_trainable],
                self._families[start:end],
                self._seeds[start:end],
                scale=scale,
                first_piece=self._first_piece,
                out=target[start:end, : block.n_trainable],
            )
        self._first_piece += -(-block.n_trainable // PIECE)
        return block.n_trainable

    def _pieces(self, block: Block, n_done: int) -> Iterator[tuple[slice, bool]]:
        """Columns to work on at a time, and whether they are trainable."""
        for start, end, is_trainable in (
            (n_done, block.n_trainable, True),
            (block.n_trainable, block.width, False),
        ):
            for column in range(start, end, self._n_columns):
                yield slice(column, min(column + self._n_columns, end)), is_trainable


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
