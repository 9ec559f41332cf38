"""The population matrix: one row per individual.

Notation: R rows; for each dtype a block (R, width) in which a row's tensors lie side by side as
the layout says. Everything a model sees are views (R, *shape) of the blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.genome.dtypes import bits
from optuna_esgd.genome.layout import Entry, Layout

_ALIGNMENT_BYTES = 64  # a cache line, and the widest vector load
_CHUNK_BYTES = 16 * 2**20  # of rows gathered at a time


class Matrix:
    """The genomes of some individuals.

    A row owns its memory: nothing here ever makes two rows, or a row and a tensor outside, share
    it, except the views that say so.

    Attributes:
        layout: Where each tensor lies.
        blocks: dtype -> (rows, width). Rows are padded to 64 bytes: the stride may be larger than
            the width.
    """

    def __init__(self, layout: Layout, blocks: dict[torch.dtype, Tensor]) -> None:
        self.layout = layout
        self.blocks = blocks

    @classmethod
    def zeros(cls, layout: Layout, n_rows: int, device: torch.device | str = "cpu") -> Matrix:
        """A matrix of zeros."""
        blocks = {}
        for block in layout.blocks:
            alignment = _ALIGNMENT_BYTES // block.dtype.itemsize
            stride = -(-block.width // alignment) * alignment
            padded = torch.zeros(n_rows, stride, dtype=block.dtype, device=device)
            blocks[block.dtype] = padded[:, : block.width]
        return cls(layout, blocks)

    @property
    def n_rows(self) -> int:
        """Number of individuals."""
        return len(next(iter(self.blocks.values())))

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return next(iter(self.blocks.values())).device

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows, without padding."""
        return self.n_rows * self.layout.n_bytes

    def parameters(self) -> dict[str, Tensor]:
        """Trainable parameters: name -> (rows, *shape) view."""
        return {entry.name: self._view(entry) for entry in self.layout.of_kind("parameter")}

    def frozen(self) -> dict[str, Tensor]:
        """Parameters with ``requires_grad=False``: name -> (rows, *shape) view."""
        return {entry.name: self._view(entry) for entry in self.layout.of_kind("frozen")}

    def buffers(self) -> dict[str, Tensor]:
        """Persistent buffers: name -> (rows, *shape) view."""
        return {entry.name: self._view(entry) for entry in self.layout.of_kind("buffer")}

    def trainable(self) -> list[Tensor]:
        """The trainable columns of each block that has any: (rows, n_trainable) views."""
        return [
            self.blocks[block.dtype][:, : block.n_trainable]
            for block in self.layout.blocks
            if block.n_trainable > 0
        ]

    def read_row(self, row: int) -> dict[str, Tensor]:
        """All tensors of one row as views, in the model's order."""
        rows = {dtype: block[row] for dtype, block in self.blocks.items()}
        return {
            entry.name: rows[entry.dtype][entry.offset : entry.offset + entry.size].view(
                entry.shape
            )
            for entry in self.layout.entries
        }

    @torch.no_grad()
    def write_row(self, row: int, tensors: Mapping[str, Tensor]) -> None:
        """Copy tensors, e.g. a ``state_dict()``, into one row; precision is converted.

        Raises:
            ConfigurationError: A tensor is missing, unknown, of another shape, or holds whole
                numbers where the model has real ones (or the other way round).
        """
        names = {entry.name for entry in self.layout.entries}
        unknown = [name for name in tensors if name not in names | self.layout.aliases.keys()]
        if unknown:
            raise ConfigurationError(
                f"The model has no tensor {unknown[0]!r} ({len(unknown)} unknown in all); "
                f"it has {_shorten(names)}."
            )
        aliases: dict[str, list[str]] = {}
        for alias, name in self.layout.aliases.items():
            aliases.setdefault(name, []).append(alias)
        sources = []
        for entry in self.layout.entries:
            candidates = [entry.name, *aliases.get(entry.name, ())]
            given = [name for name in candidates if name in tensors]
            if not given:
                raise ConfigurationError(
                    f"No tensor {entry.name!r} was given; got {_shorten(tensors)}."
                )
            _check_same_kind(entry, tensors[given[0]])
            sources.append(tensors[given[0]])
        # Only now, so that a refused set of tensors leaves the row as it was.
        for target, source in zip(self.read_row(row).values(), sources, strict=True):
            target.copy_(source)

    @torch.no_grad()
    def load_into(self, model: nn.Module, row: int) -> None:
        """Copy a row into a model's own parameters and buffers.

        Raises:
            TaskError: The model is laid out otherwise.
        """
        ours = self.read_row(row)
        for entry, theirs in zip(self.layout.entries, self.layout.tensors_of(model), strict=True):
            theirs.copy_(ours[entry.name])

    @torch.no_grad()
    def take_from(self, model: nn.Module, row: int) -> None:
        """Copy a model's parameters and buffers into a row.

        Raises:
            TaskError: The model is laid out otherwise.
        """
        ours = self.read_row(row)
        for entry, theirs in zip(self.layout.entries, self.layout.tensors_of(model), strict=True):
            ours[entry.name].copy_(theirs)

    def copy_rows(
        self, source: Matrix, source_rows: Sequence[int], target_rows: Sequence[int]
    ) -> None:
        """Copy rows of ``source``, which may be this matrix, into rows of this one.

        All are read before any is written, so rows may trade places.

        Raises:
            ConfigurationError: Another layout, rows that do not exist, a target named twice, or
                unequal numbers of rows.
        """
        self._check_layout(source)
        read_from = _row_numbers(source_rows, source.n_rows)
        write_to = _row_numbers(target_rows, self.n_rows)
        if len(read_from) != len(write_to) or len(set(write_to)) != len(write_to):
            raise ConfigurationError(
                f"Each target row needs one source row, got {read_from} for {write_to}."
            )
        if not write_to:
            return
        reads = torch.tensor(read_from, device=source.device)
        writes = torch.tensor(write_to, device=self.device)
        for target, origin in self._pairs(source):
            n_columns = max(1, _CHUNK_BYTES // (len(write_to) * target.element_size()))
            for start in range(0, target.shape[1], n_columns):
                columns = slice(start, start + n_columns)
                rows = origin[:, columns].index_select(0, reads).to(self.device)
                target[:, columns].index_copy_(0, writes, rows)

    def restore(self, source: Matrix, mask: Tensor) -> None:
        """Copy those rows of ``source`` where ``mask`` is true; the others stay as they are.

        Does not wait for the device, so the mask may be one that is still being computed.

        Args:
            source: As many rows as here, on the same device.
            mask: (rows,) booleans.

        Raises:
            ConfigurationError: Another layout or number of rows, or a mask of another kind.
        """
        self._check_layout(source)
        if mask.dtype != torch.bool or mask.shape != (self.n_rows,):
            raise ConfigurationError(
                f"mask must be {self.n_rows} booleans, got {mask.dtype} {list(mask.shape)}."
            )
        if source.n_rows != self.n_rows:
            raise ConfigurationError(f"source must have {self.n_rows} rows, got {source.n_rows}.")
        column = mask.to(self.device).unsqueeze(1)
        for target, origin in self._pairs(source):
            torch.where(column, origin, target, out=target)

    def copy_(self, source: Matrix) -> Matrix:
        """Copy all rows of ``source``, without allocating anything on its device.

        Raises:
            ConfigurationError: Another layout or number of rows.
        """
        self._check_layout(source)
        if source.n_rows != self.n_rows:
            raise ConfigurationError(f"source must have {self.n_rows} rows, got {source.n_rows}.")
        for target, origin in self._pairs(source):
            target.copy_(origin)
        return self

    def rows(self, rows: range) -> Matrix:
        """Rows that lie side by side, as a matrix that shares memory with this one."""
        blocks = {key: block[rows.start : rows.stop] for key, block in self.blocks.items()}
        return Matrix(self.layout, blocks)

    def clone(self) -> Matrix:
        """A copy with memory of its own."""
        return Matrix.zeros(self.layout, self.n_rows, self.device).copy_(self)

    def _view(self, entry: Entry) -> Tensor:
        columns = self.blocks[entry.dtype][:, entry.offset : entry.offset + entry.size]
        return columns.view(self.n_rows, *entry.shape)

    def _pairs(self, source: Matrix) -> list[tuple[Tensor, Tensor]]:
        """Bits of our blocks beside the bits of another matrix's."""
        return [(bits(block), bits(source.blocks[key])) for key, block in self.blocks.items()]

    def _check_layout(self, source: Matrix) -> None:
        if source.layout is not self.layout and source.layout != self.layout:
            raise ConfigurationError(
                "Rows can only be copied between matrices of one layout: "
                f"{self.layout.first_difference(source.layout)}."
            )


def _row_numbers(rows: Sequence[int], n_rows: int) -> list[int]:
    numbers = [int(row) for row in rows]
    for row in numbers:
        if not 0 <= row < n_rows:
            raise ConfigurationError(f"There is no row {row} among {n_rows}.")
    return numbers


def _check_same_kind(entry: Entry, tensor: Tensor) -> None:
    same_kind = tensor.dtype == entry.dtype or (
        tensor.is_floating_point() and entry.dtype.is_floating_point
    )
    if tuple(tensor.shape) != entry.shape or not same_kind:
        raise ConfigurationError(
            f"{entry.name!r} must be {entry.dtype} {list(entry.shape)}, got {tensor.dtype} "
            f"{list(tensor.shape)}."
        )


def _shorten(names: object) -> str:
    listed = sorted(names)  # type: ignore[call-overload]
    return ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "")
