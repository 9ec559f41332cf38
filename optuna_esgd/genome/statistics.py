"""Running statistics (batch-norm): averaged weights need statistics of their own.

The mean of two networks' running means is not the mean of what the averaged network sees, so
statistics are measured anew on a fixed set of batches before a bred network is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from optuna_esgd.errors import TaskError


def has_running_statistics(model: nn.Module) -> bool:
    """Whether any layer keeps running statistics (batch-norm, or instance-norm that tracks)."""
    return any(True for _ in _tracking_layers(model))


def reestimate_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[nn.Module, Any], object] | None = None,
) -> None:
    """Measure a model's running statistics anew, as plain averages over the batches.

    Only these layers see the batches in training mode, everything else (dropout) in evaluation
    mode, and nothing else about the model changes. The same batches give the same statistics. A
    layer that no batch reaches keeps what it had.

    Args:
        model: Changed in place.
        batches: What ``forward`` takes, in a fixed order; gone through once.
        forward: ``forward(model, batch)``; ``model(batch)`` if None.

    Raises:
        TaskError: There were no batches.
    """
    layers = list(_tracking_layers(model))
    if not layers:
        return
    n_batches = 0
    with torch.no_grad(), ExitStack() as stack:
        stack.enter_context(_modes_restored(model))
        model.eval()
        for layer in layers:
            layer.train()
            stack.enter_context(_averaging(layer))
        for batch in batches:
            if forward is None:
                model(batch)
            else:
                forward(model, batch)
            n_batches += 1
    if n_batches == 0:
        raise TaskError("Running statistics cannot be re-estimated: there were no batches.")


def _tracking_layers(model: nn.Module) -> Iterator[_NormBase]:
    return (
        module
        for module in model.modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    )


@contextmanager
def _modes_restored(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _averaging(layer: _NormBase) -> Iterator[None]:
    """Have a layer forget its statistics in its next call, and then average over its calls.

    torch's own ``momentum=None`` means the same to batch-norm, but "never" to instance-norm.
    """
    n_calls = 0
    momentum = layer.momentum

    def weigh_call(*_: object) -> None:
        nonlocal n_calls
        if n_calls == 0:
            layer.reset_running_stats()
        n_calls += 1
        layer.momentum = 1 / n_calls

    hook = layer.register_forward_pre_hook(weigh_call)
    try:
        yield
    finally:
        hook.remove()
        layer.momentum = momentum
