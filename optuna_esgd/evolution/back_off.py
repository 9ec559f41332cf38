"""Back-off: when an SGD step returns to an earlier point (Cui et al. 2018, section 3.2).

Two readings, both with the guarantee that the end is never worse than the birth, and none:

- ``"step"``, the paper's: after every epoch compare with the last kept point; if worse, restore.
- ``"best"``: train on through worse points and return to the best one visited, birth included.
- ``"none"``: end at the last point, better or worse, and score no other, as population-based
  training does (Jaderberg et al. 2017). Then there is no guarantee.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from optuna_esgd.evolution.fitness import clean_fitness

BackOff = Literal["step", "best", "none"]


@dataclass
class BackOffRule:
    """Decides, epoch by epoch, what one individual keeps.

    The kept point is the one with ``kept_fitness``; whoever trains holds its copy, and
    ``n_back_offs`` counts the returns to it. With back-off a diverged point is never kept, not
    even by one that was diverged at birth: it starts again from there.
    """

    back_off: BackOff
    kept_fitness: float
    n_back_offs: int = 0

    def __post_init__(self) -> None:
        """Take a birth that diverged as ``inf``."""
        self.kept_fitness = clean_fitness(self.kept_fitness)

    def is_scored(self, *, is_last_epoch: bool) -> bool:
        """Whether the fitness after this epoch is asked for."""
        return is_last_epoch or self.back_off != "none"

    def is_kept(self, fitness: float) -> bool:
        """Whether the point just reached, of this fitness, becomes the kept point."""
        kept = self.back_off == "none" or (
            math.isfinite(fitness)
            and (
                fitness < self.kept_fitness
                or (self.back_off == "step" and fitness == self.kept_fitness)
            )
        )
        if kept:
            self.kept_fitness = clean_fitness(fitness)
        return kept

    def keep_fittest(self, *fitness: float) -> int | None:
        """Offer several points of one moment; which becomes the kept point, None if none does."""
        kept = None
        for number, one in enumerate(fitness):
            if self.is_kept(one):
                kept = number
        return kept

    def must_restore(self, *, kept: bool, is_last_epoch: bool) -> bool:
        """Whether training goes on from the kept point instead of the one just reached."""
        if kept or not (self.back_off == "step" or is_last_epoch):
            return False
        self.n_back_offs += 1
        return True
