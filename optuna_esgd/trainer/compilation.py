"""Compiling functions of tensors of fixed shapes: once per process, and never silently not."""

from __future__ import annotations

import hashlib
import threading
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.passes.split_module import split_module

from optuna_esgd.trainer.tracing import trace

Function: TypeAlias = Callable[..., Sequence[Tensor]]

_compiled: dict[str, Compiled] = {}
_turn = threading.RLock()


@dataclass(frozen=True)
class Compiled:
    """A compiled function.

    Attributes:
        call: Takes what the function takes, in tensors of the same shapes.
        seconds: Compiling took.
    """

    call: Function
    seconds: float


def compile_function(function: Function, arguments: Sequence[Tensor]) -> Compiled | str:
    """Compile a function; the same computation on the same shapes is compiled once per process.

    The function is traced down to torch's basic operations first. So nothing has to be checked
    from call to call, and two functions are the same if their traces are.

    Args:
        function: Of tensors only, which it may change; numbers that change must be tensors too.
        arguments: To try it on: they are changed as the function does.

    Returns:
        The compiled function; or why there is none.
    """
    if torch._dynamo.config.disable:
        return "torch.compile is switched off here"
    with _turn, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        try:
            graph = trace(functionalize(function, remove="mutations"), arguments)
            key = _digest(graph, arguments)
            if key not in _compiled:
                _compiled[key] = _compile(graph, arguments)
            return _compiled[key]
        except Exception as error:  # noqa: BLE001  (whatever fails here, eager code can do)
            return _first_line(error)


def _compile(graph: fx.GraphModule, arguments: Sequence[Tensor]) -> Compiled:
    started = time.perf_counter()
    # On a GPU what is small costs a launch, and powers next to nothing.
    is_worth_it = all(one.device.type == "cpu" for one in arguments)
    parts = split(graph, take_columns(graph) if is_worth_it else set())
    parts.submod_1 = _CompiledAtFirstCall(parts.get_submodule("submod_1"))
    # One process: workers share the cores already, and none is left behind when one is killed.
    with torch._inductor.config.patch(compile_threads=1):
        parts(*arguments)
    return Compiled(parts, time.perf_counter() - started)


class _CompiledAtFirstCall(nn.Module):
    """A graph that is compiled when it is seen what it is called with."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        assert isinstance(graph, fx.GraphModule)  # noqa: S101  (that is what graphs are split into)
        self._graph = graph
        self._compiled: Function | None = None

    def forward(self, *arguments: Tensor) -> Sequence[Tensor]:
        if self._compiled is None:
            self._compiled = torch._inductor.compile(self._graph, list(arguments))
        return self._compiled(*arguments)


def split(graph: fx.GraphModule, columns: Collection[fx.Node]) -> fx.GraphModule:
    """Part 0 computes these nodes, which need none of the others; part 1 all the rest."""
    return split_module(graph, graph, lambda node: int(node not in columns))


def take_columns(graph: fx.GraphModule) -> set[fx.Node]:
    """What can be computed first and is one number per row, such as 1 - beta ** t, of (rows, 1).

    The compiler would write it into the loop over the (rows, d) weights, where powers cost more
    than all the rest; by itself it takes no time worth compiling for.
    """
    columns: set[fx.Node] = set()
    for node in graph.graph.nodes:
        known = (one.op == "placeholder" or one in columns for one in node.all_input_nodes)
        if _is_column(node) and all(known):
            columns.add(node)
    # The rest may change what a view is of: it must not be given the same memory twice.
    for node in [one for one in columns if _is_view(one)]:
        readers = [one for one in node.users if one not in columns]
        if readers:
            with graph.graph.inserting_after(node):
                copied = graph.graph.call_function(torch.ops.aten.clone.default, (node,))
            columns.add(copied)
            for reader in readers:
                reader.replace_input_with(node, copied)
    graph.recompile()
    return columns


def _is_column(node: fx.Node) -> bool:
    """Whether it is a computed (rows, 1) value."""
    value = node.meta.get("val")
    is_computed = node.op == "call_function" and node.target is not torch.ops.aten.copy_.default
    return is_computed and isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == 1


def _is_view(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.is_view


def _digest(graph: fx.GraphModule, arguments: Sequence[Tensor]) -> str:
    """What a traced function computes, and on what shapes."""
    digest = hashlib.sha256(graph.code.encode())
    constants = {**dict(graph.named_parameters()), **dict(graph.named_buffers()), **vars(graph)}
    for name in sorted(constants):
        value = constants[name]
        if isinstance(value, Tensor):
            content = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
            digest.update(content.numpy().tobytes())
    for one in arguments:
        digest.update(f"{one.dtype} {list(one.shape)} {one.stride()} {one.device}".encode())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    """What went wrong, without the compiler's long listings."""
    innermost: BaseException = error
    while innermost.__cause__ is not None:
        innermost = innermost.__cause__
    text = str(innermost).strip().splitlines()
    return f"{type(innermost).__name__}: {text[0].rstrip('.') if text else 'no message'}"
