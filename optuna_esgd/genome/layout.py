"""Where each tensor of a model lies in an individual's row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from optuna_esgd.errors import ConfigurationError, TaskError
from optuna_esgd.genome.dtypes import DTYPES, NAMES, storage_place

Kind: TypeAlias = Literal["parameter", "frozen", "buffer"]

_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Entry:
    """One tensor of the model.

    Attributes:
        name: As in ``state_dict()``; tied weights under their first name.
        shape: Of one individual's tensor; () for a single number.
        dtype: Says which block the tensor is in.
        kind: A trainable ``"parameter"``, a ``"frozen"`` one (``requires_grad=False``), or a
            persistent ``"buffer"``.
        offset: First column within the block.
        size: Number of columns, the product of ``shape``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: Kind
    offset: int
    size: int


@dataclass(frozen=True)
class Block:
    """The tensors of one dtype: a row's columns [0, width), trainable ones first."""

    dtype: torch.dtype
    width: int
    n_trainable: int

    @property
    def n_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """The tensors of a model in its own order, and the blocks they lie in.

    Inside a block trainable parameters come first, then frozen ones, then buffers. Non-persistent
    buffers are no part of the genome: every model has its own.

    Attributes:
        entries: In the model's order: parameters, then buffers.
        blocks: One per dtype, the widest elements first.
        aliases: Other names of tied tensors in ``state_dict()``, and the name they are kept under.
    """

    entries: tuple[Entry, ...]
    blocks: tuple[Block, ...]
    aliases: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """Lay out a model's parameters and persistent buffers.

        Raises:
            TaskError: Not a model, nothing to train, or tensors without weights of their own
                (lazy, meta, sparse) or of a type that cannot be stored and bred.
        """
        if not isinstance(model, nn.Module):
            raise TaskError(f"Expected a torch.nn.Module, got {type(model).__name__}.")
        tensors: list[tuple[str, Tensor, Kind]] = []
        aliases: dict[str, str] = {}
        first_names: dict[int, str] = {}
        for name, tensor, kind in _named_tensors(model):
            if id(tensor) in first_names:
                aliases[name] = first_names[id(tensor)]
                continue
            first_names[id(tensor)] = name
            _check_tensor(name, tensor)
            tensors.append((name, tensor, kind))
        if not any(kind == "parameter" for _, _, kind in tensors):
            raise TaskError(
                f"{type(model).__name__} has no trainable parameters (none with "
                "requires_grad=True): there is nothing to evolve."
            )
        return cls._arrange(
            [(name, tuple(tensor.shape), tensor.dtype, kind) for name, tensor, kind in tensors],
            aliases,
        )

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Read what ``to_json`` has written.

        Raises:
            ConfigurationError: The text is no layout.
        """
        try:
            content = json.loads(text)
            tensors = [
                (
                    str(name),
                    tuple(int(n) for n in shape),
                    DTYPES[dtype],
                    _KINDS[_KINDS.index(kind)],
                )
                for name, shape, dtype, kind in content["tensors"]
            ]
            aliases = {str(alias): str(name) for alias, name in content["aliases"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"This is not the text of a layout: {text[:80]!r}."
            ) from error
        return cls._arrange(tensors, aliases)

    def to_json(self) -> str:
        """Names, shapes, dtypes and kinds as canonical text: equal layouts, equal text."""
        tensors = [
            [entry.name, list(entry.shape), NAMES[entry.dtype], entry.kind]
            for entry in self.entries
        ]
        content = {"aliases": self.aliases, "tensors": tensors}
        return json.dumps(content, sort_keys=True, separators=(",", ":"))

    def first_difference(self, other: Layout) -> str | None:
        """Say in words where another layout first differs from this one; None if it does not."""
        ours, theirs = ({entry.name: entry for entry in one.entries} for one in (self, other))
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            if name not in theirs:
                return f"{name!r} is missing"
            if name not in ours:
                return f"{name!r} is unexpected"
            if _facts(ours[name]) != _facts(theirs[name]):
                return f"{name!r} is {_describe(theirs[name])}, not {_describe(ours[name])}"
        if self.aliases != other.aliases:
            return f"tied weights are {dict(other.aliases)}, not {dict(self.aliases)}"
        return None if self == other else "the tensors come in another order"

    @property
    def n_bytes(self) -> int:
        """Bytes of one row, without padding."""
        return sum(block.n_bytes for block in self.blocks)

    def of_kind(self, *kinds: Kind) -> Iterator[Entry]:
        """The entries of these kinds, in the model's order."""
        return (entry for entry in self.entries if entry.kind in kinds)

    def tensors_of(self, model: nn.Module) -> list[Tensor]:
        """A model's tensors themselves, in the order of ``entries``.

        Raises:
            TaskError: The model is laid out otherwise.
        """
        named: dict[str, Tensor] = dict(named_persistent_buffers(model))
        named.update(model.named_parameters())
        tensors = []
        for entry in self.entries:
            tensor = named.get(entry.name)
            if tensor is None or tensor.shape != entry.shape or tensor.dtype != entry.dtype:
                found = "nothing" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
                raise TaskError(
                    f"Every model must be built alike, but {entry.name!r} is {found}, not "
                    f"{entry.dtype} {list(entry.shape)} as in the first one."
                )
            tensors.append(tensor)
        return tensors

    def flatten_trainable(self, tensors: Mapping[str, Tensor]) -> list[Tensor]:
        """Lay tensors such as gradients side by side, as the trainable columns of a matrix.

        Args:
            tensors: name -> (rows, *shape) for every trainable parameter.

        Returns:
            (rows, n_trainable) for each block that has any, in the order of ``blocks``.
        """
        return [
            torch.cat(
                [
                    tensors[entry.name].reshape(len(tensors[entry.name]), entry.size)
                    for entry in entries
                ],
                dim=1,
            )
            for entries in self._trainable_entries()
        ]

    def unflatten_trainable(self, blocks: Sequence[Tensor]) -> dict[str, Tensor]:
        """The reverse of ``flatten_trainable``: name -> (rows, *shape) views, in model order."""
        views = {
            entry.name: block[:, entry.offset : entry.offset + entry.size].view(
                len(block), *entry.shape
            )
            for entries, block in zip(self._trainable_entries(), blocks, strict=True)
            for entry in entries
        }
        return {entry.name: views[entry.name] for entry in self.of_kind("parameter")}

    def _trainable_entries(self) -> list[list[Entry]]:
        """The trainable entries of each block that has any."""
        return [
            [entry for entry in self.of_kind("parameter") if entry.dtype == block.dtype]
            for block in self.blocks
            if any(entry.dtype == block.dtype for entry in self.of_kind("parameter"))
        ]

    @classmethod
    def _arrange(
        cls,
        tensors: list[tuple[str, tuple[int, ...], torch.dtype, Kind]],
        aliases: Mapping[str, str],
    ) -> Layout:
        """Give each tensor its columns."""
        widths: dict[torch.dtype, int] = {}
        n_trainable: dict[torch.dtype, int] = {}
        offsets: dict[str, int] = {}
        for wanted in _KINDS:
            for name, shape, dtype, kind in tensors:
                if kind == wanted:
                    offsets[name] = widths.get(dtype, 0)
                    widths[dtype] = offsets[name] + _product(shape)
                    if kind == "parameter":
                        n_trainable[dtype] = widths[dtype]
        return cls(
            entries=tuple(
                Entry(name, shape, dtype, kind, offsets[name], _product(shape))
                for name, shape, dtype, kind in tensors
            ),
            blocks=tuple(
                Block(dtype, widths[dtype], n_trainable.get(dtype, 0))
                for dtype in sorted(widths, key=storage_place)
            ),
            aliases=dict(aliases),
        )


def named_persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that ``state_dict()`` holds, tied ones under each of their names."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield (f"{prefix}.{name}" if prefix else name), buffer


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor, Kind]]:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        yield name, parameter, "parameter" if parameter.requires_grad else "frozen"
    for name, buffer in named_persistent_buffers(model):
        yield name, buffer, "buffer"


def _check_tensor(name: str, tensor: Tensor) -> None:
    if is_lazy(tensor):
        raise TaskError(
            f"{name!r} has no weights yet: lazy modules get theirs in the first forward pass. "
            "Run one in build_model() before returning the model."
        )
    if tensor.device.type == "meta":
        raise TaskError(f"{name!r} is on the meta device: it has a shape but no weights.")
    if tensor.layout is not torch.strided:
        raise TaskError(f"{name!r} is a {tensor.layout} tensor; only dense tensors can be bred.")
    if tensor.is_complex():
        raise TaskError(
            f"{name!r} is complex ({tensor.dtype}). Keep it as two real tensors "
            "(torch.view_as_real) and join them in forward()."
        )
    if tensor.dtype not in NAMES:
        raise TaskError(f"{name!r} is of type {tensor.dtype}, which cannot be stored.")


def _facts(entry: Entry) -> tuple[object, ...]:
    return entry.shape, entry.dtype, entry.kind


def _describe(entry: Entry) -> str:
    kind = {"parameter": "trainable", "frozen": "frozen", "buffer": "buffer"}[entry.kind]
    return f"{kind} {NAMES[entry.dtype]}{list(entry.shape)}"


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
