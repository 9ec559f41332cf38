"""The state of any ``torch.optim.Optimizer`` as named tensors, to be stored and inherited.

Only what the optimizer has gathered (momentum, second moments, step counts) is state here; its
hyperparameters are not. An individual inherits the one and is given the other anew: a parent's
learning rate never comes back with its momentum.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError

# The name of a tensor that holds, as JSON text in uint8, what is no tensor by itself: numbers,
# texts, lists. Other names begin with a parameter's number, so none is like it.
_REST = "rest"

# State that torch's own optimizers make in their first step only if the option is on.
STATE_OF_OPTION = {
    "momentum": "momentum_buffer",
    "amsgrad": "max_exp_avg_sq",
    "centered": "grad_avg",
}


def flatten_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copy an optimizer's state into named tensors in CPU memory.

    A tensor's name is the number of its parameter (counted through all groups) and its key, such
    as ``"0.exp_avg"``. Numbers, texts, None, and lists and mappings of all these are kept too.

    Returns:
        Copies; empty before the first step.

    Raises:
        ConfigurationError: The optimizer keeps something in its state that cannot be stored.
    """
    numbers = {id(p): n for n, p in enumerate(_parameters(optimizer))}
    tensors: dict[str, Tensor] = {}
    others: list[tuple[str, str, Any]] = []
    for owner, entries in optimizer.state.items():
        if id(owner) not in numbers:
            raise ConfigurationError(
                f"{type(optimizer).__name__} keeps state for {str(owner)[:80]!r}, which is none "
                "of its parameters; such state cannot be stored."
            )
        number = str(numbers[id(owner)])
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{key}"] = _copy(value)
            else:
                others.append((number, key, value))
    # Tensors inside lists are named last, so that they can stay clear of all other names.
    rest: dict[str, dict[str, Any]] = {}
    for number, key, value in others:
        rest.setdefault(number, {})[key] = _describe(f"{number}.{key}", value, tensors)
    if rest:
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        tensors[_REST] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).clone()
    return tensors


def restore_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that ``flatten_state`` copied; its hyperparameters stay.

    Where torch's optimizers or ours need state for an option that was off when it was copied
    (``amsgrad``, ``centered``, ``momentum``), it starts from zero; that of an option that is off
    is forgotten.

    Args:
        optimizer: Newly built, of the same class, over parameters of the same shapes.
        tensors: Copied, so the optimizer owns its state; none for a fresh start.

    Raises:
        ConfigurationError: The state is of another optimizer or model.
    """
    parameters = _parameters(optimizer)
    groups = [group for group in optimizer.param_groups for _ in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    used: set[str] = {_REST}

    def take(name: str) -> Tensor:
        used.add(name)
        return tensors[name]

    for number, content in _read_rest(tensors).items():
        entries = state.setdefault(_number(number, parameters), {})
        entries.update({key: _rebuild(value, take) for key, value in content.items()})
    for name in tensors.keys() - used:
        number, _, key = name.partition(".")
        state.setdefault(_number(number, parameters), {})[key] = tensors[name]
    for index in sorted(state):
        optimizer.state[parameters[index]] = {
            key: _adopt(key, value, parameters[index], groups[index])
            for key, value in sorted(state[index].items())
        }
    if type(optimizer).__module__.startswith(("torch.optim", "optuna_esgd.optim")):
        _follow_options(optimizer)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True)


def _describe(name: str, value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON; the tensors in it go to ``tensors``, under names that begin like this."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        while name in tensors:
            name += "'"
        tensors[name] = _copy(value)
        return {"tensor": name}
    if isinstance(value, list | tuple):
        items = [_describe(f"{name}.{n}", item, tensors) for n, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    if isinstance(value, dict) and all(isinstance(key, str | int) for key in value):
        pairs = [[key, _describe(f"{name}.{key}", item, tensors)] for key, item in value.items()]
        return {"mapping": pairs}
    raise ConfigurationError(
        f"Optimizer state {name!r} is a {type(value).__name__}; only tensors, numbers, texts, "
        "None, and lists, tuples and mappings of these can be stored."
    )


def _rebuild(value: Any, take: Callable[[str], Tensor]) -> Any:
    """The reverse of ``_describe``."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return take(content)
    if kind == "mapping":
        return {key: _rebuild(item, take) for key, item in content}
    items = [_rebuild(item, take) for item in content]
    return items if kind == "list" else tuple(items)


def _read_rest(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    if _REST not in tensors:
        return {}
    rest: dict[str, dict[str, Any]] = json.loads(bytes(tensors[_REST].cpu().numpy()))
    return rest


def _number(text: str, parameters: list[Tensor]) -> int:
    if not text.isdecimal() or int(text) >= len(parameters):
        raise ConfigurationError(
            f"There is optimizer state for parameter {text!r}, but the optimizer has "
            f"{len(parameters)} parameters: it is another model's or another optimizer's."
        )
    return int(text)


def _adopt(key: str, value: Any, parameter: Tensor, group: Mapping[str, Any]) -> Any:
    """Copy tensors to where the optimizer expects them."""
    if isinstance(value, Tensor):
        # Like Optimizer.load_state_dict: step counts stay in CPU memory unless told otherwise.
        stays = key == "step" and not (group.get("capturable") or group.get("fused"))
        return value.detach().to("cpu" if stays else parameter.device, copy=True)
    if isinstance(value, list | tuple):
        return type(value)(_adopt(key, item, parameter, group) for item in value)
    if isinstance(value, dict):
        return {name: _adopt(key, item, parameter, group) for name, item in value.items()}
    return value


def _follow_options(optimizer: torch.optim.Optimizer) -> None:
    """Start state from zero that an option switched on since then needs; else forget it."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            entries = optimizer.state.get(parameter)
            for option, key in STATE_OF_OPTION.items():
                if not entries or option not in group:
                    continue
                if not group[option]:
                    entries.pop(key, None)
                elif key not in entries:
                    entries[key] = torch.zeros_like(parameter, requires_grad=False)
