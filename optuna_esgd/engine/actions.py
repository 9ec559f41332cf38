"""What ``decide`` can answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from optuna_esgd.engine.individual import Plan, Slot


@dataclass(frozen=True)
class Train:
    """Claim one of these slots of the SGD step and train it."""

    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Evaluate:
    """Claim one of these slots of an evolution round, breed its offspring and score them."""

    slots: tuple[Slot, ...]


@dataclass(frozen=True)
class Commit:
    """Store this plan; whoever comes second finds the same one stored."""

    plan: Plan


@dataclass(frozen=True)
class Wait:
    """Everything open is claimed by others."""


@dataclass(frozen=True)
class Stop:
    """All generations are done."""


Action: TypeAlias = Train | Evaluate | Commit | Wait | Stop
