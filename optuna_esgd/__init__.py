"""Evolutionary Stochastic Gradient Descent (Cui et al. 2018) for Optuna."""
