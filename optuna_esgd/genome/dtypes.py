"""Element types: their names in the safetensors format, and how their bits are moved."""

from __future__ import annotations

import torch
from torch import Tensor

# What torch has beyond these (complex128, quantised types, float4) has no name in the format.
_NAMED = {
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
    "complex64": "C64",
    "float32": "F32",
    "int32": "I32",
    "uint32": "U32",
    "bfloat16": "BF16",
    "float16": "F16",
    "int16": "I16",
    "uint16": "U16",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}

NAMES: dict[torch.dtype, str] = {
    getattr(torch, dtype): name for dtype, name in _NAMED.items() if hasattr(torch, dtype)
}
DTYPES: dict[str, torch.dtype] = {name: dtype for dtype, name in NAMES.items()}

# Wide types first: in a contiguous payload every tensor is then aligned to its own element size.
_ORDER = {dtype: place for place, dtype in enumerate(NAMES)}

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def storage_place(dtype: torch.dtype) -> int:
    """The place of an element type in a payload: descending element size, then a fixed order."""
    return _ORDER[dtype]


def bits(tensor: Tensor) -> Tensor:
    """View a tensor's elements as plain integers of the same size.

    Copies, gathers and selections are bit moves; not every type (float8, uint16) has them, and
    integers also keep the payload of a NaN.
    """
    return tensor.view(_BITS[tensor.element_size()])
