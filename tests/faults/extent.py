"""How thoroughly faults are tested: by samples, or everything where the environment says so."""

from __future__ import annotations

import os

IS_EXHAUSTIVE = "OPTUNA_ESGD_TEST_ALL_FAULTS" in os.environ


def sampled(n_points: int, stride: int, *, first: int = 0) -> range:
    """Every ``stride``-th point; all of them in a thorough run."""
    return range(n_points) if IS_EXHAUSTIVE else range(first, n_points, stride)
