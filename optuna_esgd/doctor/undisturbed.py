"""The global random generators: put back after an examination, or set to something else."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np

from optuna_esgd.trainer.seeding import seeded

_NUMPY_SEEDS = 2**32


@contextlib.contextmanager
def undisturbed(seed: int) -> Iterator[None]:
    """Seed the generators of torch, NumPy and Python for a block; afterwards they are as before.

    Args:
        seed: Of all of them; fewer bits of it for NumPy.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with seeded(seed):
            random.seed(seed)
            np.random.seed(seed % _NUMPY_SEEDS)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
