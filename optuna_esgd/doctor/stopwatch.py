"""Wall time of work on a device."""

from __future__ import annotations

import time

import torch


class Stopwatch:
    """Measures from its making on; a GPU is waited for, at the beginning and at the end.

    Args:
        device: Where the work is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._wait()
        self._began_at = time.perf_counter()

    def seconds(self) -> float:
        """Seconds until now."""
        self._wait()
        return time.perf_counter() - self._began_at

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
