"""What shrinks as the generations pass."""

from __future__ import annotations


def mutation_scale(initial_scale: float, generation: int) -> float:
    """σ_k = σ_0 / k, the standard deviation of the mutations at the end of ``generation``.

    Generations count from 0 here and from 1 in the paper: k = ``generation`` + 1
    (Cui et al. 2018, section 4).
    """
    return initial_scale / (generation + 1)
