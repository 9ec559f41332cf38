"""What shrinks as the generations pass."""

from __future__ import annotations

import math
from typing import Literal

RateSchedule = Literal["constant", "cosine"]


def mutation_scale(initial_scale: float, generation: int) -> float:
    """σ_k = σ_0 / k, the standard deviation of the mutations at the end of ``generation``.

    Generations count from 0 here and from 1 in the paper: k = ``generation`` + 1
    (Cui et al. 2018, section 4).
    """
    return initial_scale / (generation + 1)


def rate_factor(schedule: RateSchedule, epoch: int, n_epochs: int) -> float:
    """What the learning rate is multiplied by in one epoch of an SGD step.

    ``"cosine"`` is (1 + cos(π·epoch / n_epochs)) / 2: the whole rate in the first epoch, little in
    the last, and the whole again in the next SGD step (Loshchilov and Hutter 2017, "SGDR",
    Eq. 5, epoch by epoch). So whoever ends an SGD step is compared where it has come to rest, and
    a high rate is judged by where it leads, not by the noise it makes.

    Args:
        schedule: ``"constant"`` leaves the rate as it is.
        epoch: From 0.
        n_epochs: K_s, epochs of the SGD step.

    Returns:
        A factor in (0, 1].
    """
    if schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * epoch / n_epochs)) / 2
