"""Every species of the table: it optimises, repeats, and can be stopped and carried on."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import Value
from optuna_esgd.species import flatten_state, restore_state, stock_species
from optuna_esgd.species.base import Species
from tests.species.table import TABLE

every_species = pytest.mark.parametrize("name", TABLE)


def values_of(name: str, lr: float | None = None) -> dict[str, Value]:
    row = TABLE[name]
    return {row.rate: row.lr if lr is None else lr, **row.others}


def quadratic() -> tuple[list[Tensor], Callable[[], Tensor]]:
    x = torch.tensor([2.0, -1.5, 1.0], requires_grad=True)
    return [x], lambda: torch.sum(x * x * torch.tensor([1.0, 3.0, 10.0]))


def banana(x: Tensor) -> Tensor:
    return ((1 - x[0]) ** 2 + 10 * (x[1] - x[0] ** 2) ** 2) / 10


def rosenbrock() -> tuple[list[Tensor], Callable[[], Tensor]]:
    x = torch.tensor([-1.0, 1.5], requires_grad=True)
    return [x], lambda: banana(x)


def mixed_shapes() -> tuple[list[Tensor], Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (), (4,), (1, 2, 1)]
    parameters = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    return parameters, lambda: sum(((p - 1) ** 2).sum() for p in parameters)  # type: ignore[return-value]


PROBLEMS = {"quadratic": quadratic, "rosenbrock": rosenbrock, "mixed shapes": mixed_shapes}


def run(
    species: Species,
    values: Mapping[str, Value],
    parameters: list[Tensor],
    loss: Callable[[], Tensor],
    n_steps: int,
    state: Mapping[str, Tensor] | None = None,
    n_before: int = 0,
) -> torch.optim.Optimizer:
    optimizer = species.build(parameters, values)
    restore_state(optimizer, state or {})
    take_steps(optimizer, loss, n_steps, n_before)
    return optimizer


def take_steps(
    optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], n_steps: int, n_before: int = 0
) -> None:
    """With the ordinary closure of torch, which every optimizer takes."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for number in range(n_before, n_before + n_steps):
        torch.manual_seed(number)
        optimizer.step(closure)


def test_the_table_has_every_stock_species() -> None:
    assert stock_species().keys() <= TABLE.keys()
    for name, species in stock_species().items():
        assert species.name == name
        assert type(TABLE[name].make()) is type(species)


@every_species
def test_searches_what_it_says(name: str) -> None:
    species = TABLE[name].make()
    assert set(species.space) == TABLE[name].searched
    assert species.name == name
    assert species.gradients_per_step == TABLE[name].n_gradients
    assert species.forwards_per_step == TABLE[name].n_forwards
    assert species.needs_closure == TABLE[name].needs_closure
    assert (species.batched is not None) == TABLE[name].is_batched


@every_species
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_loss_falls(name: str, problem: str) -> None:
    parameters, loss = PROBLEMS[problem]()
    before = loss().item()
    run(TABLE[name].make(), values_of(name), parameters, loss, 400)
    assert loss().item() < 0.5 * before


@every_species
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_types_are_kept(name: str, dtype: torch.dtype) -> None:
    x = torch.ones(3, dtype=dtype, requires_grad=True)
    optimizer = run(TABLE[name].make(), values_of(name), [x], lambda: torch.sum(x * x), 3)
    assert x.dtype == dtype
    assert x.isfinite().all()
    assert not x.eq(1).any()
    for key, value in optimizer.state[x].items():
        if isinstance(value, Tensor) and value.shape == x.shape:
            assert value.dtype == dtype, key


@every_species
def test_the_same_start_gives_the_same_weights(name: str) -> None:
    results = []
    for _ in range(2):
        parameters, loss = mixed_shapes()
        run(TABLE[name].make(), values_of(name), parameters, loss, 10)
        results.append([p.detach().clone() for p in parameters])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))


@every_species
def test_every_parameter_group_is_honoured(name: str) -> None:
    still, moving = (torch.ones(2, requires_grad=True) for _ in range(2))
    groups: list[dict[str, Any]] = [
        {"params": [still], TABLE[name].rate: 0.0, "weight_decay": 0.0},
        {"params": [moving]},
    ]
    if name == "Rprop":  # its steps have a smallest size besides
        groups[0] = {"params": [still], "lr": 0.0, "step_sizes": (0.0, 0.0)}
    optimizer = TABLE[name].make().build(groups, values_of(name))
    take_steps(optimizer, lambda: (still * still).sum() + (moving * moving).sum(), 20)
    assert still.eq(1).all()
    assert not moving.eq(1).any()


@every_species
def test_state_has_the_keys_of_the_table(name: str) -> None:
    parameters, loss = mixed_shapes()
    species = TABLE[name].make()
    optimizer = species.build(parameters, values_of(name))
    assert not any(tensor.any() for tensor in flatten_state(optimizer).values())
    optimizer = run(species, values_of(name), parameters, loss, 1)
    expected = {f"{n}.{key}" for n in range(len(parameters)) for key in TABLE[name].state}
    assert set(flatten_state(optimizer)) == expected


@every_species
@pytest.mark.parametrize("n_before", [1, 7])
def test_carries_on_bit_by_bit(name: str, n_before: int) -> None:
    species, values = TABLE[name].make(), values_of(name)
    straight, straight_loss = mixed_shapes()
    run(species, values, straight, straight_loss, n_before + 5)

    parameters, loss = mixed_shapes()
    state = flatten_state(run(species, values, parameters, loss, n_before))
    again = [p.detach().clone().requires_grad_() for p in parameters]
    loss = lambda: sum(((p - 1) ** 2).sum() for p in again)  # noqa: E731
    run(species, values, again, loss, 5, state, n_before)  # type: ignore[arg-type]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(again, straight, strict=True))


@every_species
def test_the_parents_learning_rate_never_comes_back(name: str) -> None:
    species = TABLE[name].make()
    parameters, loss = mixed_shapes()
    parent = run(species, values_of(name), parameters, loss, 3)
    child = species.build(parameters, values_of(name, lr=TABLE[name].lr / 3))
    restore_state(child, flatten_state(parent))
    assert all(group[TABLE[name].rate] == TABLE[name].lr / 3 for group in child.param_groups)


@every_species
def test_stored_and_restored_tensors_are_copies(name: str) -> None:
    species, values = TABLE[name].make(), values_of(name)
    parameters, loss = mixed_shapes()
    optimizer = run(species, values, parameters, loss, 2)
    stored = flatten_state(optimizer)
    before = {key: tensor.clone() for key, tensor in stored.items()}
    run_on = species.build(parameters, values)
    restore_state(run_on, stored)
    for one in (optimizer, run_on):
        take_steps(one, loss, 2)
    assert all(torch.equal(stored[key], before[key]) for key in stored)


@every_species
def test_refuses_bad_arguments(name: str) -> None:
    for argument, (value, words) in TABLE[name].refused.items():
        with pytest.raises(ConfigurationError, match=words):
            TABLE[name].make(**{argument: value})


@every_species
def test_refuses_unknown_arguments_and_lists_the_known(name: str) -> None:
    rate = TABLE[name].rate
    with pytest.raises(ConfigurationError, match=rf"'{rate}_'.*mean '{rate}'.*takes .*{rate}"):
        TABLE[name].make(**{f"{rate}_": 0.1})
    with pytest.raises(ConfigurationError, match="no hyperparameter 'params'"):
        TABLE[name].make(params=0.1)
    with pytest.raises(ConfigurationError, match="no hyperparameter 'generator'"):
        TABLE[name].make(generator=torch.Generator())


@every_species
def test_refuses_missing_and_surplus_values(name: str) -> None:
    species = TABLE[name].make()
    with pytest.raises(ConfigurationError, match="got values for nothing"):
        species.build([torch.ones(1, requires_grad=True)], {})
    with pytest.raises(ConfigurationError, match=r"got values for .*oddity"):
        species.build([torch.ones(1, requires_grad=True)], {**values_of(name), "oddity": 1.0})


@every_species
def test_ranges_are_narrowed_on_their_scale(name: str) -> None:
    default = TABLE[name].make()
    for argument, range_ in default.space.items():
        middle = (range_.low + range_.high) / 2
        narrowed = TABLE[name].make(**{argument: (middle, range_.high)}).space[argument]
        assert (narrowed.low, narrowed.high) == (middle, range_.high)
        assert narrowed.scale == (range_.scale if name != "ASGD" else "linear")
        fixed = TABLE[name].make(**{argument: range_.low})
        assert fixed.fixed[argument] == range_.low
        assert argument not in fixed.space


@every_species
def test_shared_names_have_shared_scales(name: str) -> None:
    logarithmic = ("lr", "weight_decay", "inner_lr", "extrapolation_lr", "gamma", "sigma")
    scales = {**dict.fromkeys(logarithmic, "log"), "H": "linear", "averaging": "linear"}
    for argument, range_ in TABLE[name].make().space.items():
        assert range_.scale == scales.get(argument, "one_minus")


@every_species
def test_state_dicts_travel(name: str) -> None:
    """torch's own way to stop and carry on; two optimizers of one kind leak nothing."""
    species, values = TABLE[name].make(), values_of(name)
    (x,), _ = rosenbrock()
    optimizer = run(species, values, [x], lambda: banana(x), 4)
    again = x.detach().clone().requires_grad_()
    other = species.build([again], values)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    (stranger,), _ = rosenbrock()
    strange = run(species, values, [stranger], lambda: 3 * banana(stranger), 1)
    take_steps(optimizer, lambda: banana(x), 3, 4)
    take_steps(strange, lambda: 3 * banana(stranger), 2, 1)
    take_steps(other, lambda: banana(again), 3, 4)
    assert torch.equal(again, x)


@every_species
def test_copies_and_pickles_carry_on(name: str) -> None:
    (x,), _ = rosenbrock()
    optimizer = run(TABLE[name].make(), values_of(name), [x], lambda: banana(x), 2)
    copies = (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer)))
    take_steps(optimizer, lambda: banana(x), 8, 2)
    for travelled in copies:
        (theirs,) = travelled.param_groups[0]["params"]
        take_steps(travelled, lambda p=theirs: banana(p), 8, 2)  # type: ignore[misc]
        assert torch.equal(theirs, x)
