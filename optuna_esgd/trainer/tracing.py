"""Functions of tensors as the list of torch's basic operations that they amount to."""

from __future__ import annotations

import logging
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

_logger = logging.getLogger(__name__)

_aten = torch.ops.aten
_RESHAPES = {_aten.expand.default, _aten.view.default, _aten._unsafe_view.default}

# Tracing takes as long as about so many small steps: what is called less often is left alone.
N_CALLS_BEFORE_TRACING = 64

_Signature: TypeAlias = tuple[object, ...]

# Who traces or compiles: warnings are silenced for all threads, and put back as they were before.
TURN = threading.RLock()


class Replayed:
    """A function of tensors, in dicts and tuples, that gets faster when it is called often.

    Once it has been called often with the same shapes its operations are traced, and from then on
    replayed: without modules, ``torch.func`` and function modes in between. These are the same
    operations on the same numbers, so the same bits, in less than half of the time where tensors
    are small. What cannot be traced, or gives other bits, is called as it is.

    Args:
        function: Of nothing but tensors: what else it reads is taken to stay as it is when it is
            traced. Changes nothing.
        n_calls: With the same shapes, before it is traced.
    """

    def __init__(
        self, function: Callable[..., Any], n_calls: int = N_CALLS_BEFORE_TRACING
    ) -> None:
        self._function = function
        self._n_calls_before = n_calls
        self._n_calls: Counter[_Signature] = Counter()
        self._replays: dict[_Signature, Callable[..., Any] | None] = {}

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns."""
        tensors, structure = pytree.tree_flatten(arguments)
        signature = (
            str(structure),
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_enabled("cuda"),
            *((one.shape, one.stride(), one.dtype, one.device) for one in tensors),
        )
        if signature not in self._replays:
            self._n_calls[signature] += 1
            if self._n_calls[signature] <= self._n_calls_before:
                return self._function(*arguments)
            self._replays[signature] = self._trace(tensors, structure)
        replay = self._replays[signature]
        return self._function(*arguments) if replay is None else replay(tensors)

    def _trace(
        self, tensors: list[Tensor], structure: pytree.TreeSpec
    ) -> Callable[[list[Tensor]], Any] | None:
        """The replay; None where there is none."""
        structures: list[pytree.TreeSpec] = []

        def flat(*given: Tensor) -> list[Tensor]:
            result = self._function(*pytree.tree_unflatten(list(given), structure))
            returned, result_structure = pytree.tree_flatten(result)
            structures.append(result_structure)
            return returned

        try:
            graph = _trace(flat, tensors)
            is_same = _are_same_bits(graph(*tensors), flat(*tensors))
        except Exception as error:  # noqa: BLE001  (whatever cannot be traced can still be called)
            _logger.debug("Called as it is, since it cannot be traced: %s", error)
            return None
        if not is_same:
            _logger.debug("Called as it is, since its traced operations give other bits.")
            return None
        return lambda given: pytree.tree_unflatten(graph(*given), structures[0])


def _trace(function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor]) -> fx.GraphModule:
    """The function's operations, on tensors without numbers: so that none depends on numbers."""
    with TURN, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        traced = make_fx(function, tracing_mode="fake", _allow_non_fake_inputs=True)
        graph: fx.GraphModule = traced(*tensors)
    for node in list(graph.graph.nodes):
        if node.target in _RESHAPES and _changes_nothing(node):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        node.meta.clear()  # ten times the rest
    graph.recompile()
    return graph


def _changes_nothing(reshape: fx.Node) -> bool:
    source = reshape.args[0]
    assert isinstance(source, fx.Node)  # noqa: S101  (that is what is reshaped)
    before, after = source.meta["val"], reshape.meta["val"]
    return bool(before.shape == after.shape and before.stride() == after.stride())


def _are_same_bits(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return all(
        torch.equal(bits(one), bits(other)) for one, other in zip(some, others, strict=True)
    )
