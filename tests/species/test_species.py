"""How a species is said: settings, shorthands, names, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, ClassVar

import optuna
import pytest
import torch

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import Choices, FloatRange, IntRange
from optuna_esgd.species import (
    DEFAULT_SPECIES,
    SGD,
    Adam,
    AMSGrad,
    named_species,
    resolve_species,
    stock_species,
)
from optuna_esgd.species.base import Species


def built(species: Species, **values: Any) -> dict[str, Any]:
    """The hyperparameters that torch's optimizer ends up with."""
    return species.build([torch.ones(1, requires_grad=True)], values).param_groups[0]


def test_searched_and_fixed() -> None:
    species = SGD(lr=0.1, momentum=(0.8, 0.9), nesterov=[True, False], weight_decay=0)
    assert species.fixed == {"lr": 0.1, "weight_decay": 0, "dampening": 0.0}
    assert species.space == {
        "momentum": FloatRange(0.8, 0.9, "one_minus"),
        "nesterov": Choices((True, False)),
    }
    group = built(species, momentum=0.85, nesterov=True)
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.1, 0.85, True)


class Begun(SGD):
    """Somebody's own, who knows what works."""

    defaults: ClassVar[Mapping[str, Any]] = {
        **SGD.defaults,
        "momentum": FloatRange(0.5, 0.99, "one_minus", start=0.9),
    }


def test_narrower_ranges_keep_the_start_they_hold() -> None:
    held, not_held = Begun(momentum=(0.8, 0.95)), Begun(momentum=(0.95, 0.99))
    assert held.space["momentum"] == FloatRange(0.8, 0.95, "one_minus", start=0.9)
    assert not_held.space["momentum"] == FloatRange(0.95, 0.99, "one_minus")
    assert Begun().narrowed("momentum", 0.8, 0.95).space == held.space
    assert Begun().narrowed("momentum", 0.95, 0.99).space == not_held.space
    gridded = Adam(lr=FloatRange(0.0, 1.0, step=0.25, start=0.5))
    assert gridded.narrowed("lr", 0.1, 0.9).space["lr"] == FloatRange(
        0.1, 0.9, step=0.25, start=0.6
    )


def test_ranges_are_taken_as_they_are() -> None:
    assert Begun(momentum=FloatRange(0.8, 0.95)).space["momentum"] == FloatRange(0.8, 0.95)
    range_ = FloatRange(0.1, 0.2, "linear", step=0.05)
    assert Adam(lr=range_).space["lr"] == range_
    assert Adam(lr=Choices((0.1, 0.2))).space["lr"] == Choices((0.1, 0.2))


def test_a_fixed_one_can_be_searched_and_the_other_way_round() -> None:
    assert SGD(dampening=(0.0, 0.5)).space["dampening"] == FloatRange(0.0, 0.5)
    assert "lr" not in SGD(lr=0.1).space


def test_parts_of_a_pair() -> None:
    species = Adam(beta1=0.8)
    assert built(species, lr=0.1, beta2=0.95, weight_decay=1e-3)["betas"] == (0.8, 0.95)
    both = Adam(betas=(0.7, 0.75))
    assert both.fixed == {"beta1": 0.7, "beta2": 0.75}
    assert built(both, lr=0.1, weight_decay=1e-3)["betas"] == (0.7, 0.75)


def test_parts_left_alone_keep_torchs_default() -> None:
    species = Species(torch.optim.Adam, lr=(0.1, 0.2), beta1=(0.5, 0.9))
    assert built(species, lr=0.1, beta1=0.6)["betas"] == (0.6, 0.999)
    assert built(Species(torch.optim.Adam, lr=0.1))["betas"] == (0.9, 0.999)


def test_tuples_for_arguments_that_take_tuples_are_values() -> None:
    species = Species(torch.optim.Adafactor, eps=(None, 1e-2))
    assert species.fixed == {"eps": (None, 1e-2)}


def test_whole_numbers_by_declaration() -> None:
    species = Species(torch.optim.LBFGS, max_iter=(5, 20), lr=(0, 1))
    assert species.space == {"max_iter": IntRange(5, 20), "lr": FloatRange(0, 1)}


def test_names() -> None:
    assert Species(torch.optim.ASGD).name == "ASGD"
    assert Species(torch.optim.ASGD, name="averaged").name == "averaged"
    assert SGD(name="SGD slow", lr=(1e-4, 1e-3)).name == "SGD slow"
    assert "SGD" in repr(SGD())
    assert "momentum" in repr(SGD())


def test_gradients_per_step_are_declared() -> None:
    assert Species(torch.optim.ASGD, gradients_per_step=3).gradients_per_step == 3


class Keywords(torch.optim.SGD):
    """Takes whatever it is given."""

    def __init__(self, params: Any, lr: float, **others: Any) -> None:
        super().__init__(params, lr, **others)


def test_an_optimizer_that_takes_anything() -> None:
    assert built(Species(Keywords, lr=0.1, momentum=0.5))["momentum"] == 0.5


class NeedsClosure(torch.optim.SGD):
    def step(self, closure: Any) -> Any:  # type: ignore[override]
        return super().step(closure)


def test_needs_closure() -> None:
    assert Species(NeedsClosure).needs_closure
    assert Species(torch.optim.LBFGS).needs_closure
    assert not SGD().needs_closure


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Species(torch.nn.Linear), "torch.optim.Optimizer class"),
        (lambda: Species("Adam"), "torch.optim.Optimizer class"),
        (lambda: Species(torch.optim.ASGD, gradients_per_step=0), "gradients_per_step"),
        (lambda: Species(torch.optim.ASGD, name=""), "name must be"),
        (lambda: SGD(lr=(0.1, 0.2, 0.3)), r"a range is \(low, high\)"),
        (lambda: SGD(lr=(0.2, 0.1)), "lr of SGD: .* low <= high"),
        (lambda: SGD(lr=(0.0, 0.1)), "log range needs low > 0"),
        (lambda: SGD(lr=[]), "at least one value"),
        (lambda: SGD(lr="fast"), "lr of SGD must be a number, a range .*, got 'fast'"),
        (
            lambda: SGD(lr=optuna.distributions.FloatDistribution(1e-3, 1, log=True)),
            "lr of SGD must be a number, a range .*, got FloatDistribution",
        ),
        (lambda: SGD(lr={"low": 0}), "lr of SGD must be a number, a range .*, got {'low': 0}"),
        (lambda: SGD(lr=None), "SGD refuses"),
        (lambda: SGD(nesterov=True, momentum=0), "Nesterov momentum requires"),
        (lambda: SGD(learning_rate=0.1), "no hyperparameter 'learning_rate'"),
        (lambda: SGD(momentun=0.1), "Did you mean 'momentum'"),
        (lambda: SGD(beta1=0.1), "no hyperparameter 'beta1'.* It takes dampening, "),
        (lambda: Adam(betas=(0.9, 0.99, 0.999)), "betas must be 2 numbers.* beta1, beta2"),
    ],
)
def test_refuses(make: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make()


def test_values_are_checked_when_built_too() -> None:
    with pytest.raises(ConfigurationError, match="Invalid learning rate: -1"):
        built(SGD(momentum=0.9, weight_decay=0.0), lr=-1)


def test_species_travel_to_other_processes() -> None:
    for species in (*stock_species().values(), Species(torch.optim.ASGD, lr=(0.1, 0.2))):
        again = pickle.loads(pickle.dumps(species))
        assert (again.name, again.space, again.fixed) == (
            species.name,
            species.space,
            species.fixed,
        )
        assert (again.batched is None) == (species.batched is None)


def test_no_two_species_share_their_settings() -> None:
    first, second = SGD(), SGD()
    first.space.clear()
    assert second.space


def test_resolve_takes_all_that_users_may_write() -> None:
    own = SGD(name="mine")
    resolved = resolve_species([own, "Adam", SGD, torch.optim.AdamW, torch.optim.ASGD])
    assert [species.name for species in resolved] == ["mine", "Adam", "SGD", "AdamW", "ASGD"]
    assert resolved[0] is own
    assert resolved[3].space == stock_species()["AdamW"].space
    assert resolved[4].space == {}


def test_the_default() -> None:
    assert [species.name for species in resolve_species(DEFAULT_SPECIES)] == ["SGD", "Adam"]


def test_own_optimizer_with_a_stock_name_is_not_the_stock_one() -> None:
    class Adam(torch.optim.SGD):
        pass

    assert resolve_species([Adam])[0].optimizer_class is Adam


def test_amsgrad_is_adam_with_its_maximum() -> None:
    species = AMSGrad(beta1=0.9, beta2=0.99, weight_decay=0.0)
    assert built(species, lr=0.1)["amsgrad"] is True


class WithArgument(Species):
    def __init__(self, size: int) -> None:
        super().__init__(torch.optim.SGD, name=f"S{size}")


@pytest.mark.parametrize(
    ("items", "words"),
    [
        ([], "at least one"),
        ("Adam", "must be a list"),
        (SGD(), "must be a list"),
        (None, "must be a list"),
        (["adm"], "no stock species 'adm'.* Did you mean 'Adam'.* There are SGD, Adam, "),
        ([3], "A species is an object .* got 3"),
        ([torch.nn.Linear], "A species is an object"),
        ([SGD, SGD(lr=0.1)], r"Two species are called 'SGD'.*SGD\(name=\"SGD2\"\)"),
        ([WithArgument], "cannot be made without arguments"),
    ],
)
def test_resolve_refuses(items: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        resolve_species(items)


def test_names_are_found_in_capitals_or_not() -> None:
    resolved = resolve_species(["sgd", "ADAMW", "nonlinearcg", "stdp"])
    assert [species.name for species in resolved] == ["SGD", "AdamW", "NonlinearCG", "STDP"]
    assert named_species().keys() - stock_species().keys() == {"STDP"}
