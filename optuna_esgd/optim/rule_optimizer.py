"""A ``torch.optim.Optimizer`` that steps by a rule."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.optim.closure import Closure, as_closure
from optuna_esgd.optim.limited_optimizer import LimitedOptimizer, Parameters
from optuna_esgd.optim.rule import Draws, Part, Rule, run_step

_GENERATOR = "generator"


class RuleOptimizer(LimitedOptimizer):
    """One model's weights under a ``Rule``; subclasses say which rule, and what it takes.

    Every parameter group has hyperparameters of its own, except those that the number and kind of
    evaluations depend on, which must be the same in all.

    Args:
        params: As for ``torch.optim``.
        defaults: Hyperparameters.
        generator: What random draws come from; torch's global one if None. Its state travels in
            ``state_dict()``. A closure that brings a ``key`` is drawn from instead.

    Raises:
        ConfigurationError: A hyperparameter is out of its limits.

    Attributes:
        shared: Names of those that must be the same in all groups.
    """

    shared: ClassVar[frozenset[str]] = frozenset()
    generator: torch.Generator | None = None

    def __init__(
        self,
        params: Parameters,
        defaults: dict[str, Any],
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(params, defaults)
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ConfigurationError(
                f"generator must be a torch.Generator or None, got {generator!r}."
            )
        self.generator = generator

    @abc.abstractmethod
    def rule(self) -> Rule:
        """The rule for the present settings."""

    def step(self, closure: Callable[[], Any] | None = None) -> Tensor | None:  # type: ignore[override]
        """Take one step; see ``optuna_esgd.optim.closure`` for what the closure is asked.

        Args:
            closure: May be left out where a step is one gradient at the weights as they are,
                which is then taken from ``grad``.

        Returns:
            The loss before the step, where a closure was given.

        Raises:
            ConfigurationError: There is no closure and the rule needs one.
        """
        rule = self.rule()
        if closure is None and not rule.takes_ready_gradients:
            raise ConfigurationError(
                f"{type(self).__name__} evaluates the loss itself: write a closure that clears "
                "the gradients, computes the loss, calls backward() and returns the loss, and "
                "call step(closure)."
            )
        chosen = None if closure is None else as_closure(closure)
        with torch.no_grad():
            parts = self._parts(rule, self._key(chosen) if rule.draws else None)
            loss = run_step(rule, parts, _ClosureEvaluator(self._tensors(), chosen))
        return None if closure is None else loss

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Refuse what is out of its limits, or must be as in the other groups and is not."""
        super().check_settings(settings)
        for name in self.shared:
            for group in self.param_groups[:1]:
                if settings[name] != group[name]:
                    raise ConfigurationError(
                        f"{name} must be the same in all parameter groups, got "
                        f"{group[name]!r} and {settings[name]!r}."
                    )

    def state_dict(self) -> dict[str, Any]:
        """State and settings, with the state of the generator where one was given."""
        state: dict[str, Any] = super().state_dict()
        if self.generator is not None:
            state[_GENERATOR] = self.generator.get_state()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a copy of what ``state_dict`` gave."""
        # torch itself would share the step counts with whoever still has the dictionary.
        super().load_state_dict(copy.deepcopy(dict(state_dict)))
        if self.generator is not None and _GENERATOR in state_dict:
            self.generator.set_state(state_dict[_GENERATOR])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), _GENERATOR: self.generator}

    def _uses(self, name: str) -> bool:
        """Whether a hyperparameter is other than 0 in some group."""
        return any(bool(group[name]) for group in self.param_groups)

    def _tensors(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _parts(self, rule: Rule, key: Tensor | None) -> list[Part]:
        parts: list[Part] = []
        n_before = 0
        for group in self.param_groups:
            columns: dict[torch.device, dict[str, Tensor]] = {}
            for parameter in group["params"]:
                device = parameter.device
                if device not in columns:
                    columns[device] = _columns(rule, group, device)
                draws = None
                if key is not None:
                    places = torch.arange(n_before, n_before + parameter.numel(), device=device)
                    draws = Draws(key.to(device), places.view(parameter.shape))
                parts.append(Part(parameter, self._state(rule, parameter), columns[device], draws))
                n_before += parameter.numel()
        return parts

    def _state(self, rule: Rule, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        for name in rule.elementwise:
            if name not in state:
                state[name] = torch.zeros_like(parameter, requires_grad=False)
        for name, value in rule.counters.items():
            if name not in state:
                state[name] = torch.tensor(value, dtype=torch.float32, device="cpu")
        return state

    def _key(self, closure: Closure | None) -> Tensor:
        if closure is not None and closure.key is not None:
            return closure.key
        device = "cpu" if self.generator is None else self.generator.device
        return torch.randint(2**62, (), generator=self.generator, device=device)


class _ClosureEvaluator:
    """What a closure gives, in the order of the parts."""

    def __init__(self, tensors: Sequence[Tensor], closure: Closure | None) -> None:
        self._tensors = tensors
        self._closure = closure

    def gradients(self) -> tuple[Tensor, Sequence[Tensor | None]]:
        loss = torch.zeros(()) if self._closure is None else self._closure()
        return loss, [tensor.grad for tensor in self._tensors]

    def losses(self) -> Tensor:
        assert self._closure is not None  # noqa: S101  (checked by step)
        return self._closure.loss()

    def advance(self) -> None:
        assert self._closure is not None  # noqa: S101  (checked by step)
        self._closure.advance()


def _columns(rule: Rule, group: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """A group's hyperparameters as 0-dim tensors, without those that are 0 and may be left out."""
    dtype = torch.float32 if device.type == "mps" else torch.float64
    return {
        name: torch.tensor(value, dtype=dtype, device=device)
        for name, value in rule.numbers(group).items()
        if not (name in rule.optional and value == 0)
    }
