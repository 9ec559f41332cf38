"""Running statistics (batch-norm): averaged weights need statistics of their own.

The mean of two networks' running means is not the mean of what the averaged network sees, so
statistics are measured anew on a fixed set of batches before a bred network is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
    mode; nothing else about the model changes. The same batches give the same statistics.

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
    with torch.no_grad(), _averaging(model, layers):
        for batch in batches:
            if n_batches == 0:  # so that without batches the model stays as it was
                for layer in layers:
                    layer.reset_running_stats()
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
def _averaging(model: nn.Module, layers: list[_NormBase]) -> Iterator[None]:
    """Put the layers into training mode with a cumulative average, and all else into evaluation."""
    modes = [(module, module.training) for module in model.modules()]
    momenta = [(layer, layer.momentum) for layer in layers]
    try:
        model.eval()
        for layer in layers:
            layer.train()
            layer.momentum = None  # torch's word for the cumulative average
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for layer, momentum in momenta:
            layer.momentum = momentum
