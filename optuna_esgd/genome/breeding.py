"""Intermediate recombination with mutation (Cui et al. 2018, Eq. 9).

Notation: an offspring has ρ parents θ_1 .. θ_ρ and becomes θ = (1/ρ) Σ θ_j + σ·ε, ε ~ N(0, I).

Every element is computed by the same rounded operations whichever offspring are bred in the same
call, wherever and in whatever pieces, so what an offspring is depends on its parents and its seed
alone, bit by bit, on every processor and device: no matrix product, no fused multiply-add, and
noise from ``NormalRows``.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from typing import TypedDict

import torch
from torch import Tensor

from optuna_esgd.draws import PIECE, NormalRows
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.genome.dtypes import bits
from optuna_esgd.genome.layout import Block
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.native.recombination import Recombination, build_recombination

_logger = logging.getLogger(__name__)

# Columns bred at a time, a multiple of PIECE: one piece of a few rows stays in a processor's
# cache; a GPU is asked for more at once.
_N_COLUMNS_CPU, _N_COLUMNS_ELSEWHERE = PIECE, 2**22
_HALF = torch.tensor(0.5, device="cpu")  # a number would be made a tensor of anew for every piece


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


class _Like(TypedDict):
    dtype: torch.dtype
    device: torch.device


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
                    _average_two(members, values)
                else:
                    _average(members, values, scratch[:, :n])
                    if not is_trainable:
                        _keep_infinities(members, values)
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
        program = _find_recombination()
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


@functools.cache
def _find_recombination() -> Recombination | None:
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
            _average_two([pool[row] for row in family], out)
            if scale > 0:
                noise = torch.empty(n, **like)
                out.add_(NormalRows().fill(noise, seed, scale=scale, first_piece=3))
        if not torch.equal(bits(bred), bits(expected)):
            return False
    return True


def _average_two(parents: list[Tensor], out: Tensor) -> None:
    """Write the mean of two parents, as (θ_1 + θ_2) / 2: in two passes over memory, not three.

    As exact where they agree as ``_average``, up to half of the largest number there is: weights
    beyond that have diverged, but buffers may hold such constants.
    """
    first, second = parents
    if first.dtype != out.dtype:
        first, second = first.to(out.dtype), second.to(out.dtype)
    # Two operations: fused, as by lerp, subnormal numbers would depend on the processor.
    torch.add(first, second, out=out)
    torch.mul(out, _HALF, out=out)


def _average(parents: list[Tensor], out: Tensor, scratch: Tensor) -> None:
    """Write the parents' mean, as θ_1 + Σ (θ_j − θ_1) / ρ.

    Unlike the sum divided by ρ, this is exact where all parents agree.

    Args:
        parents: ρ > 1 rows.
        out: A row in the precision to average in.
        scratch: (>= 2, columns) in that precision.
    """
    first, *others = (parent.to(out.dtype) for parent in parents)
    difference = torch.sub(others[0], first, out=scratch[0])
    for other in others[1:]:
        difference.add_(torch.sub(other, first, out=scratch[1]))
    torch.add(first, difference.div_(len(parents)), out=out)


def _keep_infinities(parents: list[Tensor], out: Tensor) -> None:
    """Where all parents have the same infinity, as in masks kept in buffers, so has their mean.

    Args:
        parents: ρ rows.
        out: Their mean, in the precision it was made in.
    """
    first, *others = (parent.to(out.dtype) for parent in parents)
    agree = first.isinf()
    for other in others:
        agree &= other == first
    torch.where(agree, first, out, out=out)


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
