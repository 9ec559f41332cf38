"""Sampling: which training examples come next, where that is not simply their turn."""

from optuna_esgd.sampling.oddball import OddballSampler

__all__ = ["OddballSampler"]
