"""Elastic coupling: individuals that train together are drawn towards their mean.

Chaudhari, Baldassi, Zecchina, Soatto, Talwalkar and Oberman, "Parle: parallelizing stochastic
gradient descent", arXiv 1707.00424 (2017): the elastic term of its replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError


@dataclass(frozen=True)
class ElasticCoupling:
    """x_a ← x_a - ηρ·(x_a - x̄) for every individual a of a cohort, before each of its epochs.

    Differences shrink by (1 - ηρ) and the mean is unchanged. Back-off may always return to the
    birth, which is never coupled, so the guarantee of ESGD holds as before. Individuals that have
    diverged are left out, in the mean too. Only parameters are coupled; running statistics follow
    in the epoch.

    Averages of networks that have nothing in common are no good networks: coupling is for
    populations with a common origin (``anchor=``), or late in a run.

    Args:
        strength: ηρ, in (0, 1].

    Raises:
        ConfigurationError: The strength is out of range.
    """

    strength: float = 0.05

    def __post_init__(self) -> None:
        """Refuse what does not draw together."""
        if not 0 < self.strength <= 1:
            raise ConfigurationError(f"strength must be in (0, 1], got {self.strength}.")

    @torch.no_grad()
    def pull(self, blocks: Sequence[Tensor]) -> None:
        """Couple the rows in place.

        Args:
            blocks: (individuals, weights) each; together they hold all trainable parameters.
        """
        is_finite = torch.stack([block.isfinite().all(1) for block in blocks]).all(0)
        rows = is_finite.nonzero().flatten().tolist()
        if len(rows) < 2:
            return
        for block in blocks:
            origin = block[rows[0]].clone()
            mean = torch.zeros_like(origin)
            # Row by row and relative to the first: the same bits however many threads there are,
            # and exactly their value where all agree.
            for row in rows:
                mean.add_(block[row] - origin)
            mean.div_(len(rows)).add_(origin)
            for row in rows:
                block[row].sub_((block[row] - mean).mul_(self.strength))
