"""Dropout whose masks are a function of a key, not of a generator's history.

A generator hands out numbers in the order they are asked for, so a population trained in one
batched pass would draw other masks than the same population trained row by row. Here element i of
the mask of the c-th dropout call in a forward pass is drawn from ``(key, c, i)`` alone: the same
under ``torch.func.vmap``, row by row, on every device, and under compilation (see ``draws``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from optuna_esgd.draws import keyed_bits
from optuna_esgd.genome.dropout_functions import KEYED


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
        places = torch.arange(math.prod(shape), device=like.device)
        uniform = keyed_bits(self._key.to(like.device), call, places)
        return (uniform >= round(p * 2**32)).reshape(tuple(shape))
