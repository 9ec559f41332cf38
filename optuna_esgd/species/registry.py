"""The stock species by name, and what users may write instead of a species."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.species.adadelta import Adadelta
from optuna_esgd.species.adagrad import Adagrad
from optuna_esgd.species.adam import Adam
from optuna_esgd.species.adamax import Adamax
from optuna_esgd.species.adamw import AdamW
from optuna_esgd.species.amsgrad import AMSGrad
from optuna_esgd.species.base import Species
from optuna_esgd.species.conditioned_mutation import ConditionedMutation
from optuna_esgd.species.cycle_stabilized_sgd import CycleStabilizedSGD
from optuna_esgd.species.entropy_sgd import EntropySGD
from optuna_esgd.species.extrapolated_sgd import ExtrapolatedSGD
from optuna_esgd.species.nadam import NAdam
from optuna_esgd.species.nonlinear_cg import NonlinearCG
from optuna_esgd.species.power_gradient import PowerAMSGrad, PowerGradientSGD
from optuna_esgd.species.radam import RAdam
from optuna_esgd.species.rmsprop import RMSprop
from optuna_esgd.species.rprop import Rprop
from optuna_esgd.species.sgd import SGD
from optuna_esgd.species.stdp import STDP

SpeciesLike: TypeAlias = Species | str | type[Species] | type[torch.optim.Optimizer]

_STOCK = (
    SGD,
    Adam,
    AdamW,
    AMSGrad,
    NAdam,
    RAdam,
    Adamax,
    RMSprop,
    Adagrad,
    Adadelta,
    Rprop,
    EntropySGD,
    ConditionedMutation,
    PowerGradientSGD,
    PowerAMSGrad,
    ExtrapolatedSGD,
    CycleStabilizedSGD,
    NonlinearCG,
)

# Known by name, too, but not for any network: a population cannot just take all of them.
_FOR_SPIKING_NETWORKS = (STDP,)

DEFAULT_SPECIES: tuple[SpeciesLike, ...] = (SGD, Adam)


def stock_species() -> dict[str, Species]:
    """The species that come with the package and train any network, by name."""
    return {species.name: species for species in (make() for make in _STOCK)}


def named_species() -> dict[str, Species]:
    """Those, and the ones for spiking networks only."""
    return stock_species() | {make().name: make() for make in _FOR_SPIKING_NETWORKS}


def resolve_species(items: Sequence[SpeciesLike]) -> tuple[Species, ...]:
    """Make species of what users write.

    Args:
        items: Species, classes of them, names of stock species in capitals or not, or optimizer
            classes: those of torch and ours become the stock species of that name, any other
            trains with its own defaults.

    Raises:
        ConfigurationError: Something else, an unknown name, a name that is taken, or nothing.
    """
    if isinstance(items, str | Species) or not isinstance(items, Sequence):
        raise ConfigurationError(f"species must be a list, got {items!r}. Write species=[...].")
    if not items:
        raise ConfigurationError("There must be at least one species.")
    by_object = all(isinstance(item, Species) for item in items)
    stock = {} if by_object else named_species()
    resolved = tuple(_resolve(item, stock) for item in items)
    names = [species.name for species in resolved]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"Two species are called {name!r}. Give one of them another name, e.g. "
                f'{resolved[names.index(name)].optimizer_class.__name__}(name="{name}2").'
            )
    return resolved


def fixed_species(
    optimizer_class: type[torch.optim.Optimizer], settings: Mapping[str, Any]
) -> Species:
    """A species of which nothing is searched: what is not given is the optimizer's default.

    Where there is a stock species of that optimizer it has its rule, so that many individuals
    train at once.

    Args:
        optimizer_class: The optimizer.
        settings: Its keyword arguments.

    Raises:
        ConfigurationError: The optimizer refuses the settings.
    """
    (stock,) = resolve_species([optimizer_class])
    if type(stock) is Species:
        return Species(optimizer_class, **settings)
    searched = {name: stock.default_of(name) for name in stock.space}
    return type(stock)(**{**searched, **settings})


def _resolve(item: object, stock: dict[str, Species]) -> Species:
    if isinstance(item, Species):
        return item
    if isinstance(item, str):
        names = {name.casefold(): name for name in stock}
        if item.casefold() in names:
            return stock[names[item.casefold()]]
        guesses = [names[g] for g in difflib.get_close_matches(item.casefold(), names, n=1)]
        hint = f" Did you mean {guesses[0]!r}?" if guesses else ""
        raise ConfigurationError(
            f"There is no stock species {item!r}.{hint} There are {', '.join(stock)}."
        )
    if isinstance(item, type) and issubclass(item, Species):
        return _instantiate(item)
    if isinstance(item, type) and issubclass(item, torch.optim.Optimizer):
        same = stock.get(item.__name__)
        return same if same is not None and same.optimizer_class is item else Species(item)
    raise ConfigurationError(
        "A species is an object such as SGD(), the name of a stock species, or a "
        f"torch.optim.Optimizer class, got {item!r}."
    )


def _instantiate(species_class: type[Species]) -> Species:
    try:
        return species_class()  # type: ignore[call-arg]
    except TypeError as error:
        raise ConfigurationError(
            f"{species_class.__name__} cannot be made without arguments ({error}); give an object."
        ) from error
