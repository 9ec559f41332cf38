"""Examines a trainer before hours are spent on it: will the guarantee hold, and what will it cost.

A *patient* is a trainer with a few founders that have trained for an epoch, all of it in memory.
An *examination* is a function from a patient to a *finding*: how bad it is, what was found in
numbers, and what to do. One file holds one examination, and ``examine.py`` lists them all.
"""

from __future__ import annotations

from optuna_esgd.doctor.examine import Checkup, examine
from optuna_esgd.doctor.findings import Finding

__all__ = ["Checkup", "Finding", "examine"]
