"""State of any optimizer as tensors: also of those that keep numbers, lists or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.species import SGD, Adam, RMSprop, flatten_state, restore_state
from optuna_esgd.species.base import Species


class Odd(torch.optim.Optimizer):
    """Keeps everything in its state that an optimizer might."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("count", 0)
                state["count"] += 1
                state["flag"] = state["count"] % 2 == 0
                state["ratio"] = math.pi / state["count"]
                state["worst"] = math.inf
                state["nothing"] = None
                state["words"] = "größer"
                state["grid"] = [p.grad.clone(), (p.clone(), 3), []]
                state["grid.0"] = p.grad * 2  # a name that a list's item would have taken
                state["by_name"] = {"left": p.clone(), 7: [1.5, True]}
                p.sub_(group["lr"] * p.grad)


def stepped(make: Callable[[list[Tensor]], torch.optim.Optimizer]) -> torch.optim.Optimizer:
    torch.manual_seed(0)
    parameters = [torch.randn(shape, requires_grad=True) for shape in ((2, 3), (), (4,))]
    optimizer = make(parameters)
    for _ in range(2):
        for p in parameters:
            p.grad = torch.randn_like(p)
        optimizer.step()
    return optimizer


def assert_same_state(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    if isinstance(ours, Tensor):
        assert torch.equal(ours, theirs)
        assert ours.dtype == theirs.dtype
        assert ours.data_ptr() != theirs.data_ptr() or ours.numel() == 0
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for key in ours:
            assert_same_state(ours[key], theirs[key])
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same_state(one, other)
    else:
        assert ours == theirs


def test_everything_survives() -> None:
    optimizer = stepped(Odd)
    parameters = optimizer.param_groups[0]["params"]
    tensors = flatten_state(optimizer)
    assert all(isinstance(tensor, Tensor) for tensor in tensors.values())
    again = Odd(parameters)
    restore_state(again, tensors)
    for p in parameters:
        assert_same_state(dict(again.state[p]), dict(optimizer.state[p]))


def test_equal_states_flatten_alike() -> None:
    first, second = flatten_state(stepped(Odd)), flatten_state(stepped(Odd))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_lbfgs() -> None:
    species = Species(torch.optim.LBFGS, lr=1.0, max_iter=(2, 8), history_size=4)
    assert species.needs_closure

    def run(x: Tensor, n_steps: int, state: dict[str, Tensor]) -> torch.optim.Optimizer:
        optimizer = species.build([x], {"max_iter": 2})
        restore_state(optimizer, state)

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = ((1 - x[0]) ** 2 + 10 * (x[1] - x[0] ** 2) ** 2) / 10
            loss.backward()
            return loss

        for _ in range(n_steps):
            optimizer.step(closure)
        return optimizer

    straight = torch.tensor([-1.0, 1.5], requires_grad=True)
    run(straight, 6, {})
    halted = torch.tensor([-1.0, 1.5], requires_grad=True)
    state = flatten_state(run(halted, 3, {}))
    run(halted, 3, state)
    assert torch.equal(halted, straight)


def test_groups_are_counted_through() -> None:
    first, second = (torch.ones(n, requires_grad=True) for n in (2, 3))
    optimizer = torch.optim.SGD(
        [{"params": [first]}, {"params": [second], "lr": 0.5}], momentum=0.9
    )
    for p in (first, second):
        p.grad = torch.full_like(p, float(len(p)))
    optimizer.step()
    tensors = flatten_state(optimizer)
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "0.momentum_buffer": [2.0, 2.0],
        "1.momentum_buffer": [3.0, 3.0, 3.0],
    }


def test_parameters_without_gradients_have_no_state() -> None:
    used, unused = (torch.ones(2, requires_grad=True) for _ in range(2))
    optimizer = torch.optim.Adam([unused, used])
    used.grad = torch.ones(2)
    optimizer.step()
    tensors = flatten_state(optimizer)
    assert set(tensors) == {"1.step", "1.exp_avg", "1.exp_avg_sq"}
    again = torch.optim.Adam([unused, used])
    restore_state(again, tensors)
    assert not again.state.get(unused)
    unused.grad = torch.ones(2)
    again.step()
    assert again.state[used]["step"] == 2
    assert again.state[unused]["step"] == 1


def test_nothing_to_restore_leaves_a_new_optimizer_as_it_is() -> None:
    x = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.Adagrad([x], initial_accumulator_value=0.5)
    restore_state(optimizer, {})
    assert optimizer.state[x]["sum"].eq(0.5).all()


@pytest.mark.parametrize(
    ("species", "off", "on", "key"),
    [
        (
            Adam(amsgrad=[False, True], lr=0.1),
            {"amsgrad": False},
            {"amsgrad": True},
            "max_exp_avg_sq",
        ),
        (RMSprop(centered=[False, True]), {"centered": False}, {"centered": True}, "grad_avg"),
        (RMSprop(momentum=[0.0, 0.9]), {"momentum": 0.0}, {"momentum": 0.9}, "momentum_buffer"),
        (SGD(momentum=[0.0, 0.9]), {"momentum": 0.0}, {"momentum": 0.9}, "momentum_buffer"),
    ],
    ids=["amsgrad", "centered", "RMSprop momentum", "SGD momentum"],
)
def test_an_option_switched_on_starts_from_zero(
    species: Species, off: dict[str, Any], on: dict[str, Any], key: str
) -> None:
    others = {name: range_.low for name, range_ in species.space.items() if hasattr(range_, "low")}
    parent = stepped(lambda p: species.build(p, {**others, **off}))
    parameters = parent.param_groups[0]["params"]
    child = species.build(parameters, {**others, **on})
    restore_state(child, flatten_state(parent))
    for p in parameters:
        if parent.state[p]:
            assert not child.state[p][key].any()
    child.step()
    assert all(p.isfinite().all() for p in parameters)
    # And back again: what is no longer used does no harm.
    back = species.build(parameters, {**others, **off})
    restore_state(back, flatten_state(child))
    back.step()


def test_state_that_cannot_be_stored_is_refused() -> None:
    optimizer = stepped(Odd)
    p = optimizer.param_groups[0]["params"][0]
    optimizer.state[p]["generator"] = torch.Generator()
    with pytest.raises(ConfigurationError, match=r"'0.generator' is a Generator"):
        flatten_state(optimizer)


def test_state_of_no_parameter_is_refused() -> None:
    optimizer = stepped(Odd)
    optimizer.state["global"] = {"n": 1}  # type: ignore[index]
    with pytest.raises(ConfigurationError, match="'global', which is none"):
        flatten_state(optimizer)


@pytest.mark.parametrize("name", ["3.exp_avg", "x.exp_avg", "exp_avg", "-1.exp_avg"])
def test_state_of_another_model_is_refused(name: str) -> None:
    optimizer = stepped(torch.optim.Adam)
    with pytest.raises(ConfigurationError, match="has 3 parameters"):
        restore_state(optimizer, {name: torch.zeros(2)})


def test_step_counts_stay_in_cpu_memory_and_keep_their_type() -> None:
    optimizer = stepped(torch.optim.Adam)
    tensors = flatten_state(optimizer)
    assert tensors["0.step"].shape == ()
    assert tensors["0.step"].dtype == torch.float32
    assert not any(tensor.requires_grad for tensor in tensors.values())
