"""Functions of tensors as the list of torch's basic operations that they amount to."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from optuna_esgd.genome.dtypes import bits

_aten = torch.ops.aten
_RESHAPES = {_aten.expand.default, _aten.view.default, _aten._unsafe_view.default}

# Tracing takes as long as about so many small steps: what is called less often is left alone.
N_CALLS_BEFORE_TRACING = 64

_Shapes: TypeAlias = tuple[object, ...]

_turn = threading.RLock()


def trace(function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor]) -> fx.GraphModule:
    """A function's operations on tensors of these shapes, as a function.

    Whatever else it is made of (modules, ``torch.func``, function modes) is behind us then: no
    Python is left between operations. What is not a tensor stays what it is now.

    Args:
        function: Of tensors only.
        tensors: To try it on; they are changed if the function changes them.
    """
    with _turn, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        return make_fx(function)(*tensors)


class Replayed:
    """A function of tensors, in dicts and tuples maybe, that gets faster when it is called often.

    Once it has been called often with the same shapes its operations are traced, and from then on
    replayed: the same operations on the same numbers, so the same bits, two to three times as
    fast where tensors are small. A function that does not give the same bits by its traced
    operations, because it changes from call to call, is called as it is.

    Args:
        function: Changes nothing.
        n_calls: With the same shapes, before it is traced.
    """

    def __init__(
        self, function: Callable[..., Any], n_calls: int = N_CALLS_BEFORE_TRACING
    ) -> None:
        self._function = function
        self._n_calls_before = n_calls
        self._n_calls: Counter[_Shapes] = Counter()
        self._replays: dict[_Shapes, Callable[..., Any] | None] = {}

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        tensors, structure = pytree.tree_flatten(arguments)
        shapes = (
            structure,
            torch.is_autocast_enabled(),
            *((one.shape, one.stride(), one.dtype, one.device) for one in tensors),
        )
        if shapes not in self._replays:
            self._n_calls[shapes] += 1
            if self._n_calls[shapes] <= self._n_calls_before:
                return self._function(*arguments)
            self._replays[shapes] = self._trace(tensors, structure)
        replay = self._replays[shapes]
        return self._function(*arguments) if replay is None else replay(tensors)

    def _trace(
        self, tensors: list[Tensor], structure: pytree.TreeSpec
    ) -> Callable[[list[Tensor]], Any] | None:
        """The replay; None where there is none."""
        results: list[pytree.TreeSpec] = []

        def flat(*given: Tensor) -> list[Tensor]:
            result = self._function(*pytree.tree_unflatten(list(given), structure))
            returned, result_structure = pytree.tree_flatten(result)
            results.append(result_structure)
            return returned

        try:
            graph = trace(flat, tensors)
        except Exception:  # noqa: BLE001  (whatever cannot be traced can still be called)
            return None
        _leave_out_reshapes(graph)
        if not _are_same_bits(graph(*tensors), flat(*tensors)):
            return None
        return lambda given: pytree.tree_unflatten(graph(*given), results[0])


def _leave_out_reshapes(graph: fx.GraphModule) -> None:
    """Take out the many that change nothing."""
    for node in list(graph.graph.nodes):
        if node.target not in _RESHAPES:
            continue
        source = node.args[0]
        before, after = source.meta["val"], node.meta["val"]
        if before.shape == after.shape and before.stride() == after.stride():
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)
    graph.recompile()


def _are_same_bits(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(
        torch.equal(bits(one), bits(other)) for one, other in zip(some, others, strict=True)
    )
