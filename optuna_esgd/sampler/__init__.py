"""The sampler: what evolution looks like from Optuna.

A *sampler* answers ``trial.suggest_*``: with the values of the individual a trial shows where
weights are trained, else with an offspring of the study's finished trials.
"""

from optuna_esgd.sampler.esgd_sampler import ESGDSampler, unwrap

__all__ = ["ESGDSampler", "unwrap"]
