"""Compiling functions of tensors of fixed shapes: once per process, and never silently not."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from optuna_esgd.trainer.tracing import TURN

Function: TypeAlias = Callable[..., Sequence[Tensor]]

_SLICE = torch.ops.aten.slice.Tensor

_compiled: dict[str, Compiled] = {}


@dataclass
class Compiled:
    """A compiled function.

    Attributes:
        call: Takes what the function takes, in tensors of the same shapes.
        seconds: Compiling took.
        n_compilations: How often that was done; more than once would be a mistake here.
    """

    call: Function
    seconds: float = 0.0
    n_compilations: int = 0


def compile_function(function: Function, arguments: Sequence[Tensor]) -> Compiled | str:
    """Compile a function; the same computation on the same shapes is compiled once per process.

    The function is traced down to torch's basic operations first. So whatever it is made of
    (modules, ``torch.func``, function modes) is behind us, the compiler checks nothing but shapes
    from call to call, and two functions are the same if their traces are.

    Args:
        function: Of tensors only, which it may change; numbers that change must be tensors too.
        arguments: To try it on: they are changed as the function does.

    Returns:
        The compiled function; or why there is none.
    """
    with TURN, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        try:
            graph = make_fx(function)(*arguments)
            _compute_columns_once(graph)
            key = _digest(graph, arguments)
            if key not in _compiled:
                _compiled[key] = _compile(graph, arguments)
            return _compiled[key]
        except Exception as error:  # noqa: BLE001  (whatever fails here, eager code can do)
            return _first_line(error)


def _compile(graph: fx.GraphModule, arguments: Sequence[Tensor]) -> Compiled:
    compiled = Compiled(graph)

    def backend(traced: fx.GraphModule, examples: list[Tensor]) -> Any:
        compiled.n_compilations += 1
        # One process: workers share the cores already, and none is left behind when one is killed.
        with torch._inductor.config.patch(compile_threads=1):
            return torch._dynamo.lookup_backend("inductor")(traced, examples)

    started = time.perf_counter()
    compiled.call = torch.compile(graph, backend=backend, fullgraph=True, dynamic=False)
    compiled.call(*arguments)
    compiled.seconds = time.perf_counter() - started
    if compiled.n_compilations == 0:
        raise RuntimeError("torch.compile is switched off here")
    return compiled


def _compute_columns_once(graph: fx.GraphModule) -> None:
    """Keep what is computed per row from being computed again for every element.

    The compiler would write coefficients such as 1 - beta ** t, of (rows, 1), into the loop over
    the (rows, d) weights, where powers cost more than all the rest. What must lie in memory in
    some order it computes before.
    """
    from torch._inductor import inductor_prims as prims  # noqa: PLC0415  (a second to import)

    for node in list(graph.graph.nodes):
        is_computed = node.op == "call_function" and node.target is not _SLICE
        if not (is_computed and _is_column(node) and any(map(_is_wide, node.users))):
            continue
        with graph.graph.inserting_after(node):
            column = graph.graph.call_function(prims.force_stride_order, (node, (1, 1)))
        for user in list(node.users):
            if user is not column and _is_wide(user):
                user.replace_input_with(node, column)
    graph.recompile()


def _is_column(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] == 1


def _is_wide(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.dim() == 2 and value.shape[1] > 1


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
