"""How many workers this machine has room for, and on which devices."""

from __future__ import annotations

import os

import torch

from optuna_esgd.errors import ConfigurationError

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def share_out(n_workers: int | None, *, device: str | None, most: int) -> list[str]:
    """The device of each worker.

    Args:
        n_workers: How many; None for one on each GPU, or without GPUs one on each core.
        device: All on this one; None for the GPUs in turn, or the CPU.
        most: Where ``n_workers`` is None, not more than these.

    Raises:
        ConfigurationError: Less than one worker.
    """
    if n_workers is not None and n_workers < 1:
        raise ConfigurationError(f"There must be at least 1 worker, got {n_workers}.")
    gpus = _gpus()
    devices = [device] if device is not None else gpus or ["cpu"]
    if n_workers is None:
        is_on_cpu = devices[0].startswith("cpu")
        n_workers = min(n_cores() if is_on_cpu else len(devices), most)
    return [devices[number % len(devices)] for number in range(n_workers)]


def environment(n_workers: int) -> dict[str, str]:
    """The environment of a worker: the cores are shared out, unless the user has said otherwise.

    Threads that together are more than the cores make small networks ten times slower.
    """
    n_threads = str(max(1, n_cores() // n_workers))
    return {**dict.fromkeys(_THREAD_VARIABLES, n_threads), **os.environ}


def n_cores() -> int:
    """Cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _gpus() -> list[str]:
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
