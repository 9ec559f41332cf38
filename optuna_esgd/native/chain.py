"""Which networks and losses a kernel can be written for: read from their traced operations."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own abbreviation)
from torch import fx, nn

Loss: TypeAlias = Literal["cross_entropy", "mse_loss", "l1_loss", "bce_with_logits"]

_LOSSES: Mapping[Any, Loss] = {
    F.cross_entropy: "cross_entropy",
    F.mse_loss: "mse_loss",
    F.l1_loss: "l1_loss",
    F.binary_cross_entropy_with_logits: "bce_with_logits",
}


@dataclass(frozen=True)
class Activation:
    """An elementwise function.

    Attributes:
        name: As in ``torch.nn.functional``; ``"gelu_tanh"`` is GELU's approximation.
        number: Its setting, such as a slope, if it has one.
    """

    name: str
    number: float = 0.0


@dataclass(frozen=True)
class Layer:
    """A linear layer and what follows it.

    Attributes:
        weight: Name of the (n_out, n_in) weights.
        bias: Name of the (n_out,) biases, if it has any.
        n_in: Inputs.
        n_out: Outputs.
        activation: None for none.
        dropout: Chance of each output to be left out, after the activation.
    """

    weight: str
    bias: str | None
    n_in: int
    n_out: int
    activation: Activation | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class Chain:
    """A network of layers that follow one another.

    Attributes:
        layers: From inputs to outputs.
        flattens: Whether examples may have more than one dimension.
    """

    layers: tuple[Layer, ...]
    flattens: bool = False


class _UnsupportedError(Exception):
    """There is no C for it; says why."""


def read_chain(model: nn.Module) -> Chain | str:
    """What a model computes in its present mode, or why no kernel can be written for it."""
    try:
        return _Reader(model).read()
    except _UnsupportedError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  (whatever cannot be traced can still be called)
        return f"it cannot be traced ({type(error).__name__})"


def read_loss(loss: Callable[..., Any]) -> Loss | str:
    """Which loss a function of outputs and targets is; anything else is returned as a reason."""

    def call(outputs: Any, targets: Any) -> Any:
        return loss(outputs, targets)

    try:
        # A function by itself would be traced through to what it calls.
        graph = fx.Tracer().trace(loss if isinstance(loss, nn.Module) else call)
        return _read_loss(graph)
    except _UnsupportedError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  (as above)
        return f"its loss cannot be traced ({type(error).__name__})"


def _read_loss(graph: fx.Graph) -> Loss:
    *inputs, call, end = graph.nodes
    if len(inputs) != 2 or call.target not in _LOSSES or end.args != (call,):
        raise _UnsupportedError("its loss is none of " + ", ".join(_LOSSES.values()))
    takes = inspect.signature(call.target)
    given = takes.bind(*call.args, **call.kwargs)
    given.apply_defaults()
    for (name, value), expected in zip(
        given.arguments.items(),
        [*inputs, *(one.default for one in list(takes.parameters.values())[2:])],
        strict=True,
    ):
        if value != expected:
            raise _UnsupportedError(f"its loss has a setting of its own, {name}")
    return _LOSSES[call.target]


def _activation(name: str, number: str | None = None) -> Callable[..., Activation]:
    def read(settings: Mapping[str, Any]) -> Activation:
        if name == "gelu" and settings.get("approximate") == "tanh":
            return Activation("gelu_tanh")
        value = float(settings[number]) if number else 0.0
        if value < 0:
            raise _UnsupportedError(f"{name} has a negative setting")
        return Activation(name, value)

    return read


_RELU, _TANH, _SIGMOID = _activation("relu"), _activation("tanh"), _activation("sigmoid")
_LEAKY_RELU, _ELU = _activation("leaky_relu", "negative_slope"), _activation("elu", "alpha")
_SILU, _GELU = _activation("silu"), _activation("gelu")

_MODULES: Mapping[type[nn.Module], Callable[..., Activation]] = {
    nn.ReLU: _RELU,
    nn.Tanh: _TANH,
    nn.Sigmoid: _SIGMOID,
    nn.LeakyReLU: _LEAKY_RELU,
    nn.ELU: _ELU,
    nn.SiLU: _SILU,
    nn.GELU: _GELU,
}
# Functions with the defaults of what they take besides the input.
_FUNCTIONS: Mapping[Any, tuple[Callable[..., Activation], Mapping[str, Any]]] = {
    F.relu: (_RELU, {"inplace": False}),
    torch.relu: (_RELU, {}),
    torch.relu_: (_RELU, {}),
    "relu": (_RELU, {}),
    torch.tanh: (_TANH, {}),
    F.tanh: (_TANH, {}),
    "tanh": (_TANH, {}),
    torch.sigmoid: (_SIGMOID, {}),
    F.sigmoid: (_SIGMOID, {}),
    "sigmoid": (_SIGMOID, {}),
    F.leaky_relu: (_LEAKY_RELU, {"negative_slope": 0.01, "inplace": False}),
    F.elu: (_ELU, {"alpha": 1.0, "inplace": False}),
    F.silu: (_SILU, {"inplace": False}),
    F.gelu: (_GELU, {"approximate": "none"}),
}
_DROPOUT = {"p": 0.5, "training": True, "inplace": False}
_MOST_DROPOUT = 0.999  # where what is kept is still scaled by a number that means something
_FLATTENERS = (torch.flatten, "flatten")


class _Reader:
    """Follows a model's operations from input to output."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._layers: list[Layer] = []
        self._flattens = False

    def read(self) -> Chain:
        for name, module in self._modules.items():
            if _has_hooks(module):
                raise _UnsupportedError(f"{name or 'the model'} has hooks")
        # As a part of another, so that a model that is a single layer is traced as one too.
        graph = fx.Tracer().trace(nn.Sequential(copy.copy(self._model)))
        first, *rest, last = list(graph.nodes)
        present = first
        for node in rest:
            if node.op == "placeholder":
                raise _UnsupportedError("it takes more than one input")
            if list(present.users) != [node] or not node.args or node.args[0] is not present:
                raise _UnsupportedError(f"its operations are no chain at {node.name!r}")
            self._take(node)
            present = node
        if last.args != (present,):
            raise _UnsupportedError("it returns something else than the last layer's outputs")
        if not self._layers:
            raise _UnsupportedError("it has no linear layer")
        if len({layer.weight for layer in self._layers}) < len(self._layers):
            raise _UnsupportedError("it uses a layer twice")
        return Chain(tuple(self._layers), self._flattens)

    def _take(self, node: fx.Node) -> None:
        if node.op == "call_module":
            if len(node.args) != 1 or node.kwargs:
                raise _UnsupportedError(f"{node.target} is called with more than its input")
            name = str(node.target).partition(".")[2]
            self._take_module(name, self._modules[name])
        elif node.target in _FUNCTIONS:
            read, defaults = _FUNCTIONS[node.target]
            settings = _settings(node, defaults)
            self._activate(read(settings))
        elif node.target is F.dropout:
            settings = _settings(node, _DROPOUT)
            self._drop(float(settings["p"]) if settings["training"] else 0.0)
        elif node.target in _FLATTENERS and (node.args[1:], node.kwargs) in (
            ((1,), {}),
            ((), {"start_dim": 1}),
        ):
            self._flatten()
        else:
            raise _UnsupportedError(f"there is no C for {node.name!r}")

    def _take_module(self, name: str, module: nn.Module) -> None:
        kind = type(module)  # a class derived from one of these may do anything
        if isinstance(module, nn.Linear) and kind is nn.Linear:
            prefix = f"{name}." if name else ""
            bias = None if module.bias is None else f"{prefix}bias"
            self._layers.append(
                Layer(f"{prefix}weight", bias, int(module.in_features), int(module.out_features))
            )
        elif isinstance(module, nn.Flatten) and kind is nn.Flatten:
            if (int(module.start_dim), int(module.end_dim)) != (1, -1):
                raise _UnsupportedError("it flattens some dimensions only")
            self._flatten()
        elif isinstance(module, nn.Dropout) and kind is nn.Dropout:
            self._drop(float(module.p) if module.training else 0.0)
        elif kind in _MODULES:
            self._activate(_MODULES[kind](vars(module)))
        elif kind is not nn.Identity:
            raise _UnsupportedError(f"there is no C for {kind.__name__}")

    def _flatten(self) -> None:
        if not self._layers:
            self._flattens = True

    def _activate(self, activation: Activation) -> None:
        if not self._layers:
            raise _UnsupportedError("it begins with an activation")
        last = self._layers[-1]
        if last.activation is not None or last.dropout:
            raise _UnsupportedError("it has an activation that does not follow a linear layer")
        self._layers[-1] = replace(last, activation=activation)

    def _drop(self, p: float) -> None:
        if p == 0:
            return
        if not self._layers or self._layers[-1].dropout or not 0 < p <= _MOST_DROPOUT:
            raise _UnsupportedError("it has dropout that does not follow a layer")
        self._layers[-1] = replace(self._layers[-1], dropout=p)


def _settings(node: fx.Node, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What a function is given besides its input."""
    given = dict(zip(defaults, node.args[1:], strict=False))
    settings = {**defaults, **given, **node.kwargs}
    if settings.keys() != defaults.keys():
        raise _UnsupportedError(f"{node.name!r} has settings of its own")
    return settings


def _has_hooks(module: nn.Module) -> bool:
    return any(
        getattr(module, name, None)
        for name in (
            "_forward_hooks",
            "_forward_pre_hooks",
            "_backward_hooks",
            "_backward_pre_hooks",
        )
    )
