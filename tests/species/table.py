"""One row per species; every row goes through every test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from optuna_esgd import species as stock
from optuna_esgd.evolution.space import FloatRange, Value
from optuna_esgd.species.base import Species


class Row(NamedTuple):
    """What the tests must know about a species.

    Attributes:
        make: Builds it from keyword arguments.
        searched: The hyperparameters it searches by default.
        lr: A value of ``rate`` that brings the loss down on every problem of these tests.
        others: The other searched values for these problems.
        state: Keys it keeps per parameter.
        refused: Arguments it refuses, and words of the message.
        variants: Settings worth testing apart.
        is_batched: Whether it has a rule for many individuals at once.
        rate: The hyperparameter that says how far a step goes.
        n_gradients: Gradients per step.
        n_forwards: Evaluations of the loss alone per step.
        needs_closure: Whether a step evaluates the loss itself.
    """

    make: Callable[..., Species]
    searched: set[str]
    lr: float
    others: Mapping[str, Value]
    state: set[str]
    refused: Mapping[str, tuple[object, str]]
    variants: tuple[Mapping[str, object], ...] = ({},)
    is_batched: bool = True
    rate: str = "lr"
    n_gradients: int = 1
    n_forwards: int = 0
    needs_closure: bool = False


def _entropy_sgd(**settings: Any) -> Species:
    return stock.EntropySGD(**{"langevin_steps": 3, **settings})


_SGD = {"momentum": 0.9, "weight_decay": 1e-5}
_ADAM = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 1e-5}
_BAD_BETAS: dict[str, tuple[object, str]] = {
    "lr": (-1.0, "Invalid learning rate: -1.0"),
    "beta1": (1.5, "Invalid beta parameter at index 0: 1.5"),
    "beta2": ([0.9, -0.1], "Invalid beta parameter at index 1: -0.1"),
    "betas": (0.9, "betas must be 2 numbers"),
    "weight_decay": ((-1.0, 1.0), "log range needs low > 0"),
}

TABLE = {
    "SGD": Row(
        stock.SGD,
        {"lr", "momentum", "weight_decay"},
        4e-3,
        {"momentum": 0.9, "weight_decay": 1e-5},
        {"momentum_buffer"},
        {
            "lr": (-0.1, "Invalid learning rate: -0.1"),
            "momentum": (-0.5, "Invalid momentum value: -0.5"),
            "weight_decay": (-1.0, "Invalid weight_decay value: -1.0"),
        },
        ({}, {"nesterov": True}, {"nesterov": [True, False]}, {"momentum": 0.0}),
    ),
    "Adam": Row(
        stock.Adam,
        {"lr", "beta1", "beta2", "weight_decay"},
        2e-2,
        _ADAM,
        {"step", "exp_avg", "exp_avg_sq"},
        _BAD_BETAS,
        ({}, {"amsgrad": True}, {"weight_decay": 0.0}, {"eps": (1e-8, 1e-6)}),
    ),
    "AdamW": Row(
        stock.AdamW,
        {"lr", "beta1", "beta2", "weight_decay"},
        2e-2,
        _ADAM,
        {"step", "exp_avg", "exp_avg_sq"},
        _BAD_BETAS,
        ({}, {"amsgrad": True}, {"weight_decay": 0.0}),
    ),
    "AMSGrad": Row(
        stock.AMSGrad,
        {"lr", "beta1", "beta2", "weight_decay"},
        2e-2,
        _ADAM,
        {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
        _BAD_BETAS,
    ),
    "NAdam": Row(
        stock.NAdam,
        {"lr", "beta1", "beta2", "weight_decay"},
        2e-2,
        _ADAM,
        {"step", "exp_avg", "exp_avg_sq", "mu_product"},
        _BAD_BETAS,
    ),
    "RAdam": Row(
        stock.RAdam,
        {"lr", "beta1", "beta2", "weight_decay"},
        2e-2,
        _ADAM,
        {"step", "exp_avg", "exp_avg_sq"},
        _BAD_BETAS,
    ),
    "Adamax": Row(
        stock.Adamax,
        {"lr", "beta1", "beta2", "weight_decay"},
        2e-2,
        _ADAM,
        {"step", "exp_avg", "exp_inf"},
        _BAD_BETAS,
    ),
    "RMSprop": Row(
        stock.RMSprop,
        {"lr", "alpha", "weight_decay"},
        1e-2,
        {"alpha": 0.95, "weight_decay": 1e-5},
        {"step", "square_avg"},
        {"lr": (-0.1, "Invalid learning rate"), "momentum": (-1.0, "Invalid momentum value")},
        ({}, {"momentum": 0.5}, {"momentum": [0.0, 0.9]}),
    ),
    "Adagrad": Row(
        stock.Adagrad,
        {"lr", "weight_decay"},
        1e-1,
        {"weight_decay": 1e-5},
        {"step", "sum"},
        {"lr": (-0.1, "Invalid learning rate"), "lr_decay": (-1.0, "Invalid lr_decay value")},
        ({}, {"lr_decay": (1e-3, 1e-1)}),
    ),
    "Adadelta": Row(
        stock.Adadelta,
        {"lr", "rho", "weight_decay"},
        5.0,
        {"rho": 0.9, "weight_decay": 1e-5},
        {"step", "square_avg", "acc_delta"},
        {"lr": (-0.1, "Invalid learning rate"), "rho": (1.5, "Invalid rho value")},
    ),
    "Rprop": Row(
        stock.Rprop,
        {"lr"},
        1e-2,
        {},
        {"step", "prev", "step_size"},
        {
            "lr": (-0.1, "Invalid learning rate"),
            "etas": ((1.1, 1.2), "Invalid eta values"),
            "eta_minus": ([0.5, 1.5], "Invalid eta values"),
        },
        is_batched=False,
    ),
    "EntropySGD": Row(
        _entropy_sgd,
        {"lr", "momentum", "weight_decay", "inner_lr", "gamma", "averaging"},
        0.5,
        {"momentum": 0.5, "weight_decay": 1e-5, "inner_lr": 0.02, "gamma": 1e-2, "averaging": 0.5},
        {"step", "momentum_buffer"},
        {
            "lr": (-0.1, "lr must be a number of at least 0, got -0.1"),
            "momentum": (1.0, r"momentum must be a number in \[0, 1\), got 1.0"),
            "nesterov": ("yes", "nesterov must be True or False, got 'yes'"),
            "weight_decay": (-1.0, "weight_decay must be a number of at least 0"),
            "langevin_steps": (0, "langevin_steps must be a whole number of at least 1, got 0"),
            "inner_lr": (float("nan"), "inner_lr must be a number of at least 0, got nan"),
            "inner_momentum": (-0.1, "inner_momentum must be a number in"),
            "gamma": (-1.0, "gamma must be"),
            "scoping": (-1.0, "scoping must be"),
            "noise": ("loud", "noise must be a number of at least 0, got 'loud'"),
            "averaging": (0.0, r"averaging must be a number in \(0, 1\], got 0.0"),
        },
        (
            {},
            {"momentum": 0.0, "noise": 0.0, "scoping": 0.0},
            {"nesterov": [True, False], "noise": (0.01, 0.1), "scoping": (0.0, 0.01)},
            {"inner_momentum": (0.1, 0.9), "langevin_steps": 1},
        ),
        n_gradients=3,
        needs_closure=True,
    ),
    "ConditionedMutation": Row(
        stock.ConditionedMutation,
        {"sigma"},
        5e-2,
        {},
        set(),
        {
            "sigma": (-0.1, "sigma must be a number of at least 0, got -0.1"),
            "beta": (0.0, "beta must be a number above 0, or inf, got 0.0"),
        },
        ({}, {"beta": (0.1, 10.0)}),
        rate="sigma",
        n_gradients=0,
        n_forwards=2,
        needs_closure=True,
    ),
    "PowerGradientSGD": Row(
        stock.PowerGradientSGD,
        {"lr", "momentum", "weight_decay", "H"},
        4e-3,
        {**_SGD, "H": 0.8},
        {"momentum_buffer"},
        {
            "lr": (-0.1, "Invalid learning rate: -0.1"),
            "H": (0.0, "H must be a number above 0, got 0.0"),
        },
        ({}, {"nesterov": [True, False]}, {"momentum": 0.0}, {"H": 1.0}),
    ),
    "PowerAMSGrad": Row(
        stock.PowerAMSGrad,
        {"lr", "beta1", "beta2", "weight_decay", "H"},
        2e-2,
        {**_ADAM, "H": 0.8},
        {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
        {**_BAD_BETAS, "H": (-1, "H must be a number above 0, got -1")},
    ),
    "ExtrapolatedSGD": Row(
        stock.ExtrapolatedSGD,
        {"lr", "extrapolation_lr", "momentum", "weight_decay"},
        4e-3,
        {**_SGD, "extrapolation_lr": 4e-3},
        {"momentum_buffer", "past_gradient"},
        {
            "lr": (-0.1, "lr must be a number of at least 0"),
            "extrapolation_lr": (-0.1, "extrapolation_lr must be None or a number of at least 0"),
            "mode": ("ahead", "mode must be one of 'past', 'extragradient', 'nesterov', got"),
            "momentum": (1.0, "momentum must be"),
            "weight_decay": (-1.0, "weight_decay must be"),
        },
        (
            {},
            {"mode": "extragradient"},
            {"mode": "nesterov"},
            {"momentum": 0.0, "extrapolation_lr": None},
        ),
        needs_closure=True,
    ),
    "CycleStabilizedSGD": Row(
        stock.CycleStabilizedSGD,
        {"lr", "weight_decay"},
        4e-2,
        {"weight_decay": 1e-5},
        {"offset1"},
        {
            "lr": (-0.1, "lr must be a number of at least 0"),
            "depth": (1.5, "depth must be a whole number of at least 1, got 1.5"),
            "momentum": (-0.5, "momentum must be"),
            "weight_decay": (-1.0, "weight_decay must be"),
        },
        ({}, {"depth": 1}, {"depth": 4, "momentum": (0.1, 0.9)}),
    ),
    "NonlinearCG": Row(
        stock.NonlinearCG,
        {"lr"},
        1e-2,
        {},
        {"past_gradient", "direction"},
        {
            "lr": (-0.1, "lr must be a number of at least 0"),
            "beta": ("hs", "beta must be one of 'pr.', 'fr', got 'hs'"),
            "max_evaluations": (0, "max_evaluations must be a whole number of at least 1"),
            "slope_tolerance": (2.0, r"slope_tolerance must be a number in \(0, 1\]"),
        },
        is_batched=False,
        n_gradients=3,
        needs_closure=True,
    ),
    "ASGD": Row(  # a species in one line
        lambda **settings: Species(
            torch.optim.ASGD, **{"lr": FloatRange(1e-3, 1e-1, "log"), **settings}
        ),
        {"lr"},
        4e-2,
        {},
        {"step", "ax", "eta", "mu"},
        {"lr": (-0.1, "Invalid learning rate")},
        is_batched=False,
    ),
}
