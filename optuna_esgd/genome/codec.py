"""Tensors as bytes: the safetensors format, header and body apart.

``len(manifest)`` as eight little-endian bytes, the manifest and the payload, one after the other,
are a valid ``.safetensors`` file. Nothing is ever pickled, and nothing that is read is believed:
the manifest is checked whole before memory for it is allocated.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError, CorruptionError
from optuna_esgd.genome.dtypes import DTYPES, NAMES, storage_place
from optuna_esgd.genome.layout import Entry, Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.memory import empty_bytes

Payload: TypeAlias = bytes | bytearray | memoryview

_METADATA = "__metadata__"
_LARGEST_SIZE = 2**63 - 1
_MOST_DIMENSIONS = 64  # torch copies no more


@dataclass(frozen=True)
class _Span:
    """Where a tensor lies in the payload: bytes [start, end)."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def encode(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> tuple[bytes, memoryview]:
    """Turn named tensors into a manifest and a payload, in canonical order.

    Args:
        tensors: Dense ones, on any device.
        metadata: Texts to write into the manifest beside them.

    Returns:
        Manifest and payload; equal tensors give equal bytes, whatever their order.

    Raises:
        ConfigurationError: A tensor is of a type the format has no name for, or not dense; or a
            name is taken or no text.
    """
    for name, tensor in tensors.items():
        _check_encodable(name, tensor)
    spans = []
    end = 0
    for name in sorted(tensors, key=lambda name: (storage_place(tensors[name].dtype), name)):
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        spans.append(_Span(name, tensor.dtype, tuple(tensor.shape), start, end))
    payload = empty_bytes(end)
    for span in spans:
        _copy_to_bytes(tensors[span.name], payload[span.start : span.end])
    return _write_manifest(spans, metadata or {}), payload


def decode(manifest: bytes, payload: Payload) -> dict[str, Tensor]:
    """Turn a manifest and its payload back into tensors, each with memory of its own.

    Raises:
        CorruptionError: They are no such thing, or do not belong together.
    """
    spans = _read_manifest(manifest, len(memoryview(payload).cast("B")))
    return {span.name: _decode_span(span, payload) for span in spans}


def adopt(manifest: bytes, payload: Payload) -> dict[str, Tensor]:
    """As ``decode``, but the tensors lie in the payload's own memory where they can.

    For payloads that nobody else uses, such as those just read: nothing is copied.

    Raises:
        CorruptionError: They are no such thing, or do not belong together.
    """
    source = memoryview(payload).cast("B")
    spans = _read_manifest(manifest, len(source))
    if source.readonly or not source:
        return {span.name: _decode_span(span, source) for span in spans}
    return {span.name: _adopt_span(span, source) for span in spans}


def encode_row(matrix: Matrix, row: int) -> tuple[bytes, memoryview]:
    """Turn one row into a manifest, with the names of tied weights in it, and a payload.

    The payload is the row's own bytes, block after block.
    """
    layout = matrix.layout
    payload = empty_bytes(layout.n_bytes)
    start = 0
    for block in layout.blocks:
        end = start + block.n_bytes
        _copy_to_bytes(matrix.blocks[block.dtype][row], payload[start:end])
        start = end
    return row_manifest(layout), payload


def decode_row(manifest: bytes, payload: Payload, matrix: Matrix, row: int) -> None:
    """Read a manifest and its payload into a row.

    Raises:
        CorruptionError: They are damaged, or do not belong together.
        ConfigurationError: They are of another model.
    """
    if bytes(manifest) != row_manifest(matrix.layout):
        matrix.write_row(row, decode(manifest, payload))
        return
    source = memoryview(payload).cast("B")
    if len(source) != matrix.layout.n_bytes:
        raise CorruptionError(
            f"The payload has {len(source)} bytes, its manifest {matrix.layout.n_bytes}."
        )
    start = 0
    for block in matrix.layout.blocks:
        end = start + block.n_bytes
        target = matrix.blocks[block.dtype][row]
        # Straight into the row where that is possible and there is nothing in it to refuse.
        is_direct = target.device.type == "cpu" and block.dtype != torch.bool
        columns = (
            target if is_direct else torch.empty(block.width, dtype=block.dtype, device="cpu")
        )
        _copy_from_bytes(source[start:end], columns, f"the {NAMES[block.dtype]} tensors")
        if not is_direct:
            target.copy_(columns)
        start = end


@functools.lru_cache(maxsize=16)
def row_manifest(layout: Layout) -> bytes:
    """The manifest of every row of this layout."""
    spans = []
    start = 0
    for block in layout.blocks:
        spans += [_span_of(entry, start) for entry in layout.entries if entry.dtype == block.dtype]
        start += block.n_bytes
    return _write_manifest(spans, layout.aliases)


def _span_of(entry: Entry, block_start: int) -> _Span:
    item = entry.dtype.itemsize
    start = block_start + entry.offset * item
    return _Span(entry.name, entry.dtype, entry.shape, start, start + entry.size * item)


def _check_encodable(name: str, tensor: Tensor) -> None:
    if not isinstance(name, str) or name == _METADATA:
        raise ConfigurationError(f"A tensor cannot be called {name!r}.")
    if not isinstance(tensor, Tensor):
        raise ConfigurationError(f"{name!r} must be a tensor, got {type(tensor).__name__}.")
    if tensor.dtype not in NAMES or tensor.layout is not torch.strided:
        raise ConfigurationError(
            f"{name!r} is a {tensor.layout} tensor of {tensor.dtype}; only dense tensors of "
            f"{', '.join(str(dtype).removeprefix('torch.') for dtype in NAMES)} can be stored."
        )
    if tensor.device.type == "meta":
        raise ConfigurationError(f"{name!r} is on the meta device: it has no content to store.")


def _write_manifest(spans: Iterable[_Span], metadata: Mapping[str, str]) -> bytes:
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    for span in sorted(spans, key=lambda span: (span.start, span.name)):
        header[span.name] = {
            "dtype": NAMES[span.dtype],
            "shape": list(span.shape),
            "data_offsets": [span.start, span.end],
        }
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(
            f"A name or metadata text is no valid Unicode: {error}."
        ) from None
    return text + b" " * (-len(text) % 8)


def _read_manifest(manifest: bytes, n_bytes: int) -> list[_Span]:
    """Check all that a manifest says; its spans in payload order."""
    try:
        header = json.loads(bytes(manifest).decode(), object_pairs_hook=_refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise CorruptionError(f"The manifest is no safetensors header: {error}.") from None
    if not isinstance(header, dict):
        raise CorruptionError("The manifest is no safetensors header: not an object.")
    header.pop(_METADATA, None)
    spans = [_read_span(name, content) for name, content in header.items()]
    spans.sort(key=lambda span: (span.start, span.end))
    ends = [0, *(span.end for span in spans)]
    for end, span in zip(ends, spans, strict=False):
        if span.start != end:
            raise CorruptionError(
                f"Tensor {span.name!r} should start at byte {end}, its manifest says {span.start}."
            )
    if ends[-1] != n_bytes:
        raise CorruptionError(f"The payload has {n_bytes} bytes, its manifest {ends[-1]}.")
    return spans


def _read_span(name: str, content: Any) -> _Span:
    if not isinstance(content, dict) or set(content) != {"dtype", "shape", "data_offsets"}:
        raise CorruptionError(f"The manifest's entry for {name!r} is no tensor.")
    dtype = DTYPES.get(content["dtype"]) if isinstance(content["dtype"], str) else None
    if dtype is None:
        raise CorruptionError(f"Tensor {name!r} is of the unknown type {content['dtype']!r}.")
    shape, offsets = content["shape"], content["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(_is_size(number) for number in numbers):
            raise CorruptionError(f"Tensor {name!r} has the impossible shape or place {numbers}.")
    size, positive_size = dtype.itemsize, dtype.itemsize
    for length in shape:
        size *= length
        positive_size *= max(length, 1)
    if len(shape) > _MOST_DIMENSIONS or positive_size > _LARGEST_SIZE:
        raise CorruptionError(f"Tensor {name!r} has the impossible shape {shape}.")
    if len(offsets) != 2 or offsets[1] - offsets[0] != size:
        raise CorruptionError(f"Tensor {name!r} needs {size} bytes, but lies at {offsets}.")
    return _Span(name, dtype, tuple(shape), *offsets)


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number <= _LARGEST_SIZE


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name appears twice")
    return content


def _decode_span(span: _Span, payload: Payload) -> Tensor:
    tensor = torch.empty(span.shape, dtype=span.dtype, device="cpu")
    source = memoryview(payload).cast("B")[span.start : span.end]
    _copy_from_bytes(source, tensor, repr(span.name))
    return tensor


def _adopt_span(span: _Span, source: memoryview) -> Tensor:
    if span.start == span.end or span.start % span.dtype.itemsize:
        return _decode_span(span, source)
    if span.dtype == torch.bool:
        elements = torch.frombuffer(source[span.start : span.end], dtype=torch.uint8)
        _check_booleans(elements, repr(span.name))
    n_elements = (span.end - span.start) // span.dtype.itemsize
    flat = torch.frombuffer(source, dtype=span.dtype, count=n_elements, offset=span.start)
    return flat.view(span.shape)


def _copy_to_bytes(tensor: Tensor, target: memoryview) -> None:
    """Write a tensor's elements, in row-major order, into memory of exactly their size."""
    if not target:
        return
    source = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    elements = source.reshape(-1).view(torch.uint8)
    np.frombuffer(target, dtype=np.uint8)[:] = elements.numpy()


def _copy_from_bytes(source: memoryview, target: Tensor, name: str) -> None:
    """Fill a contiguous tensor in CPU memory."""
    if not source:
        return
    elements = target.view(-1).view(torch.uint8)
    # By way of NumPy, because torch.frombuffer warns of read-only memory such as bytes.
    elements.numpy()[:] = np.frombuffer(source, dtype=np.uint8)
    if target.dtype == torch.bool:
        _check_booleans(elements, name)


def _check_booleans(elements: Tensor, name: str) -> None:
    if bool((elements > 1).any()):
        raise CorruptionError(f"Booleans in {name} are neither 0 nor 1.")
