"""Back-off: when an SGD step returns to an earlier point (Cui et al. 2018, section 3.2).

Two readings, both with the guarantee that the end is never worse than the birth:

- ``"step"``, the paper's: after every epoch compare with the last kept point; if worse, restore.
- ``"best"``: train on through worse points and return to the best one visited, birth included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from optuna_esgd.evolution.fitness import clean_fitness

BackOff = Literal["step", "best"]


@dataclass
class BackOffRule:
    """Decides, epoch by epoch, what one individual keeps.

    The kept point is the one with ``best_fitness``; whoever trains holds its copy, and
    ``n_back_offs`` counts the returns to it. A diverged point is never kept, not even by one that
    was diverged at birth: it starts again from there.
    """

    back_off: BackOff
    best_fitness: float
    n_back_offs: int = 0

    def __post_init__(self) -> None:
        """Take a birth that diverged as ``inf``."""
        self.best_fitness = clean_fitness(self.best_fitness)

    def is_kept(self, fitness: float) -> bool:
        """Whether the point just reached, of this fitness, becomes the kept point."""
        improved = math.isfinite(fitness) and (
            fitness < self.best_fitness
            or (self.back_off == "step" and fitness == self.best_fitness)
        )
        if improved:
            self.best_fitness = fitness
        return improved

    def must_restore(self, *, kept: bool, is_last_epoch: bool) -> bool:
        """Whether training goes on from the kept point instead of the one just reached."""
        if kept or not (self.back_off == "step" or is_last_epoch):
            return False
        self.n_back_offs += 1
        return True
