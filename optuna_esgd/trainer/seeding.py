"""Global generators, seeded for a block and put back afterwards."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.evolution.randomness import derive_seed
from optuna_esgd.trainer.task import Task

# The generators are one per process and device: threads that seed them must take turns.
_turn = threading.RLock()
_NUMPY_SEEDS = 2**32


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch on all devices, NumPy and ``random`` for a block; the caller's stay as they were.

    Datasets that augment draw from any of them.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with _turn, torch.random.fork_rng(devices=devices), _putting_back():
        random.seed(seed)
        np.random.seed(seed % _NUMPY_SEEDS)
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:  # where manual_seed would take a quarter of a millisecond for devices not there
            torch.default_generator.manual_seed(seed)
        yield


@contextlib.contextmanager
def _putting_back() -> Iterator[None]:
    """Leave the generators of NumPy and ``random`` as they were."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)


def build_seeded(task: Task, configuration: Configuration, device: torch.device) -> nn.Module:
    """A model whose weights do not matter; whatever else it draws is the same for everyone."""
    with seeded(derive_seed(configuration.seed, "model")):
        model = task.build_model().to(device)
    if configuration.backend == "channels_last":
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model
