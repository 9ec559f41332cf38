"""Dropout whose masks are a function of a key, not of a generator's history.

A generator hands out numbers in the order they are asked for, so a population trained in one
batched pass would draw other masks than the same population trained row by row. Here element i of
the mask of the c-th dropout call in a forward pass is ``hash(key, c, i)``: plain integer
arithmetic on tensors, the same numbers under ``torch.func.vmap``, row by row, on every device, and
under compilation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from optuna_esgd.genome.dropout_functions import KEYED

_MASK = 0xFFFFFFFF
# Multipliers of a 32-bit mixing function found by search (C. Wellons and TheIronBorn, "Prospecting
# for hash functions", bias 0.107). Both are below 2**31, so that products fit into int64.
_FIRST, _SECOND = 0x21F0AAAD, 0x735A2D97
_GOLDEN = 0x9E3779B9


class KeyedDropout(TorchFunctionMode):
    """Within this context dropout in training mode draws its masks from ``key``.

    Covers the dropout functions of ``torch.nn.functional``, the dropout inside attention and
    between the layers of recurrent networks, and all modules that use them. In evaluation mode,
    and with ``p = 0``, nothing changes. Enter it anew for every forward pass: calls are counted
    from its beginning. Inside ``vmap`` give each row its own key by mapping over keys.

    Args:
        key: 0-dim int64; all of its bits count, and neighbouring keys give unrelated masks.
    """

    def __init__(self, key: Tensor) -> None:
        super().__init__()
        self._key = key
        self._n_calls = 0

    def __enter__(self) -> KeyedDropout:
        """Begin a forward pass."""
        self._n_calls = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace what is dropout; pass everything else on."""
        keyed = KEYED.get(func)
        if keyed is None:
            return func(*args, **(kwargs or {}))
        return keyed(self._draw, *args, **(kwargs or {}))

    def _draw(self, shape: Sequence[int], like: Tensor, p: float) -> Tensor:
        """The mask of the next call: true where an element is kept, with probability 1 - p."""
        call, self._n_calls = self._n_calls, self._n_calls + 1
        key = self._key.to(like.device)
        low = _mix((key + _GOLDEN * (call + 1)) & _MASK)
        high = _mix(((key >> 32) & _MASK) ^ low)
        # Scrambled once for all rows: within vmap only what follows is done for each of them.
        place = _mix(torch.arange(math.prod(shape), device=like.device) & _MASK)
        uniform = _mix(((place ^ low) + high) & _MASK)
        return (uniform >= round(p * 2**32)).reshape(tuple(shape))


def _mix(x: Tensor) -> Tensor:
    """Scramble whole numbers in [0, 2^32), one to one."""
    x = ((x ^ (x >> 16)) * _FIRST) & _MASK
    x = ((x ^ (x >> 15)) * _SECOND) & _MASK
    return x ^ (x >> 15)
