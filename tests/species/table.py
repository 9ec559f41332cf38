"""One row per species; every row goes through every test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch

from optuna_esgd import species as stock
from optuna_esgd.evolution.space import FloatRange, Value
from optuna_esgd.species.base import Species


class Row(NamedTuple):
    """What the tests must know about a species.

    Attributes:
        make: Builds it from keyword arguments.
        searched: The hyperparameters it searches by default.
        lr: One that brings the loss down on every problem of these tests.
        others: The other searched values for these problems.
        state: Keys it keeps per parameter.
        refused: Arguments it refuses, and words of the message.
        variants: Settings worth testing apart.
        is_batched: Whether it has a rule for many individuals at once.
    """

    make: Callable[..., Species]
    searched: set[str]
    lr: float
    others: Mapping[str, Value]
    state: set[str]
    refused: Mapping[str, tuple[object, str]]
    variants: tuple[Mapping[str, object], ...] = ({},)
    is_batched: bool = True


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
