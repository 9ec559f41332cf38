"""A species: an optimizer class and what is searched about it."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar, Self, TypeAlias

import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import Choices, FloatRange, IntRange, Range, Value, with_start
from optuna_esgd.optim.rule import Rule
from optuna_esgd.optim.rule_optimizer import RuleOptimizer

Setting: TypeAlias = Range | Value | tuple[Any, ...] | list[Any]
Parameters: TypeAlias = Iterable[Tensor] | Iterable[dict[str, Any]]

# Arguments that take several numbers at once, under the names they are searched by one at a time.
_PACKED = {
    "betas": ("beta1", "beta2"),
    "etas": ("eta_minus", "eta_plus"),
    "step_sizes": ("step_size_min", "step_size_max"),
}

# Arguments of torch.optim that change how fast a step is computed, not what it computes.
_SPEED_ONLY = frozenset({"foreach", "fused", "capturable"})

# What is no hyperparameter: a population's random draws come from the individual's own counters.
_NOT_SEARCHED = frozenset({"generator"})

# Optimizers that refuse bad values themselves, and may be shown the ends of ranges beforehand.
_CHECKED_MODULES = ("torch.optim", "optuna_esgd.optim")

# Of torch.optim where a number is expected: None and tensors are for it to judge.
_MAY_BE_NUMBERS = (Real, Tensor, tuple, type(None))


class Species:
    """An optimizer class with fixed and searched hyperparameters.

    Any ``torch.optim.Optimizer`` class is a species in one line::

        Species(torch.optim.ASGD, lr=FloatRange(1e-3, 1e-1, "log"), lambd=1e-4)

    Each hyperparameter is either *searched* over a ``FloatRange``, ``IntRange`` or ``Choices``, or
    *fixed* to any other value. Shorthands: a tuple ``(low, high)`` narrows the default range and
    keeps its scale (linear where there is none); a list is ``Choices`` of its items. A tuple for
    an argument that takes tuples, such as ``betas``, is a fixed value; such arguments are searched
    by the names of their parts, ``beta1`` and ``beta2``.

    Args:
        optimizer_class: Called as ``optimizer_class(parameters, **hyperparameters)``.
        name: What it is called in the database and by Optuna; the class's name if None. Once a
            study has begun the name must not change.
        gradients_per_step: Gradient evaluations that one step costs, for comparisons at equal
            cost. Those of an optimizer that is given a closure are counted, not taken from here.
        **hyperparameters: What the optimizer takes.

    Raises:
        ConfigurationError: Not an optimizer, an argument it does not take, or a value it refuses.

    Attributes:
        name: See above.
        space: The searched hyperparameters and their ranges.
        fixed: The fixed ones and their values.
        gradients_per_step: See above; what the rule says where there is one.
        forwards_per_step: Evaluations of the loss alone that one step costs.
        needs_closure: Whether a step evaluates the loss itself, as LBFGS does.
        batched: The rule that updates many individuals at once; None where there is none, or where
            a setting is beyond it.
        listens_to_layers: Whether it needs to know what goes on inside of one model, so that a
            cohort with it cannot be trained as one computation.
    """

    defaults: ClassVar[Mapping[str, Setting]] = {}
    listens_to_layers: ClassVar[bool] = False

    def __init__(
        self,
        optimizer_class: type[torch.optim.Optimizer],
        *,
        name: str | None = None,
        gradients_per_step: int = 1,
        **hyperparameters: Setting,
    ) -> None:
        if not (
            isinstance(optimizer_class, type)
            and issubclass(optimizer_class, torch.optim.Optimizer)
        ):
            raise ConfigurationError(
                "A species needs a torch.optim.Optimizer class, such as torch.optim.Adam, got "
                f"{optimizer_class!r}."
            )
        if name is not None and not (isinstance(name, str) and name):
            raise ConfigurationError(f"name must be a text that is not empty, got {name!r}.")
        if gradients_per_step < 1:
            raise ConfigurationError(f"gradients_per_step must be >= 1, got {gradients_per_step}.")
        self.optimizer_class = optimizer_class
        self.name = optimizer_class.__name__ if name is None else name
        self.gradients_per_step = gradients_per_step
        self.forwards_per_step = 0
        self._arguments = _Arguments(self.name, optimizer_class)
        self.space: dict[str, Range] = {}
        self.fixed: dict[str, Any] = {}
        for key, setting in {**self.defaults, **hyperparameters}.items():
            self._set(key, setting)
        self._check_values()
        self.batched = self._find_batched()
        if self.batched is None:
            self.needs_closure = _needs_closure(optimizer_class)
        else:
            self.needs_closure = not self.batched.takes_ready_gradients
            n_evaluations = self.batched.n_evaluations
            self.gradients_per_step = n_evaluations * self.batched.uses_gradients
            self.forwards_per_step = n_evaluations - self.gradients_per_step

    def __repr__(self) -> str:
        settings = {**self.space, **self.fixed}
        text = ", ".join(f"{name}={setting!r}" for name, setting in settings.items())
        return f"<species {self.name}: {text}>"

    def build(
        self, parameters: Parameters, hyperparameters: Mapping[str, Value]
    ) -> torch.optim.Optimizer:
        """Make the optimizer of one individual.

        Args:
            parameters: What ``torch.optim`` takes: tensors, or parameter groups.
            hyperparameters: A value for each searched hyperparameter.

        Raises:
            ConfigurationError: Values are missing, unknown, or refused by the optimizer.
        """
        arguments = self.arguments(hyperparameters)
        try:
            return self.optimizer_class(parameters, **arguments)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"{self.name} refuses {arguments}: {error}") from error

    def arguments(self, hyperparameters: Mapping[str, Value]) -> dict[str, Any]:
        """What the optimizer class is called with, besides the parameters.

        Args:
            hyperparameters: A value for each searched hyperparameter.

        Raises:
            ConfigurationError: Values are missing or unknown.
        """
        if hyperparameters.keys() != self.space.keys():
            raise ConfigurationError(
                f"{self.name} searches {_listed(self.space)}, but got values for "
                f"{_listed(hyperparameters)}."
            )
        return self._arguments.pack({**self.fixed, **hyperparameters})

    def columns(
        self, hyperparameters: Sequence[Mapping[str, Value]], parameters: Tensor
    ) -> dict[str, Tensor]:
        """Hyperparameters of many individuals as the columns that ``batched`` takes.

        Args:
            hyperparameters: Values for the searched ones, per individual.
            parameters: (rows, d) what is to be updated; says where the columns are wanted.

        Returns:
            name -> (rows, 1), searched, fixed and left at the optimizer's default alike.
        """
        if self.batched is None:
            raise ConfigurationError(f"{self.name} has no rule for many individuals at once.")
        # float64 because of betas near 1; not every accelerator has it.
        dtype = torch.float32 if parameters.device.type == "mps" else torch.float64
        known = {**self._arguments.defaults, **self.fixed}
        left_out = {
            name
            for name in self.batched.optional
            if name not in self.space and known.get(name) == 0
        }
        rows = [self.batched.numbers({**known, **row}) for row in hyperparameters]
        return {
            name: torch.tensor(
                [[row[name]] for row in rows], dtype=dtype, device=parameters.device
            )
            for name in sorted(self.batched.hyperparameters - left_out)
        }

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model this species cannot train; those that train any need not override it.

        Raises:
            ConfigurationError: See above.
        """
        del model

    def narrowed(self, name: str, low: float, high: float) -> Self:
        """A copy that searches one of its real hyperparameters within these bounds only."""
        range_ = self.space.get(name)
        if not isinstance(range_, FloatRange):
            raise ConfigurationError(f"{self.name} does not search {name!r} over real numbers.")
        species = copy.copy(self)
        narrow = replace(range_, low=low, high=high, start=None)
        species.space = {**self.space, name: with_start(narrow, range_.start)}
        return species

    def default_of(self, name: str) -> Any:
        """What the optimizer takes for a hyperparameter, or its part, that is not given."""
        return self._arguments.defaults[name]

    def batched_update(self) -> Rule | None:
        """The rule for many individuals at once; stock species that have one override this."""
        return None

    def _set(self, name: str, setting: Setting) -> None:
        """Take one hyperparameter as searched or as fixed."""
        if name in self._arguments.packed:
            parts = self._arguments.packed[name]
            if not (isinstance(setting, tuple | list) and len(setting) == len(parts)):
                raise ConfigurationError(
                    f"{name} must be {len(parts)} numbers, got {setting!r}. To search it, give "
                    f"{_listed(parts)} one by one."
                )
            for part, value in zip(parts, setting, strict=True):
                self.space.pop(part, None)
                self.fixed[part] = value
            return
        self._arguments.check_name(name)
        self.space.pop(name, None)
        self.fixed.pop(name, None)
        range_ = self._as_range(name, setting)
        if range_ is None:
            self.fixed[name] = setting
        else:
            self.space[name] = range_

    def _as_range(self, name: str, setting: Setting) -> Range | None:
        """The range a setting means; None if it is a fixed value."""
        if isinstance(setting, FloatRange | IntRange | Choices):
            return setting
        if isinstance(setting, list):
            return Choices(tuple(setting))
        default = self._arguments.defaults.get(name)
        is_number = isinstance(default, int | float) and not isinstance(default, bool)
        # Torch's own would compare it with a number, and say so.
        is_torch = self.optimizer_class.__module__.startswith("torch.optim")
        if is_number and is_torch and not isinstance(setting, _MAY_BE_NUMBERS):
            raise ConfigurationError(
                f"{name} of {self.name} must be a number, a range (low, high), or a list of a few "
                f"values to choose from, got {setting!r}."
            )
        takes_tuples = isinstance(default, tuple)
        if not isinstance(setting, tuple) or takes_tuples:
            return None
        if len(setting) != 2:
            raise ConfigurationError(
                f"{name} of {self.name}: a range is (low, high), got {setting!r}. For a few "
                "values to choose from, write a list."
            )
        usual = self.defaults.get(name)
        is_whole = isinstance(usual, IntRange) or self._arguments.is_whole(name)
        scale = usual.scale if isinstance(usual, FloatRange | IntRange) else "linear"
        try:
            range_ = (IntRange if is_whole else FloatRange)(*setting, scale=scale)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name} of {self.name}: {error}") from None
        if isinstance(range_, FloatRange) and isinstance(usual, FloatRange):
            return with_start(range_, usual.start)
        return range_

    def _check_values(self) -> None:
        """Show optimizers that check them the ends of the ranges now, not in the first trial."""
        if not self.optimizer_class.__module__.startswith(_CHECKED_MODULES):
            return
        for end in (0, -1):
            values = {name: ends(range_)[end] for name, range_ in self.space.items()}
            # Two dimensions, because Muon takes nothing else.
            self.build([torch.zeros(1, 1, device="cpu", requires_grad=True)], values)

    def _find_batched(self) -> Rule | None:
        """The batched rule, unless a setting is none that it knows."""
        update = self.batched_update()
        if update is None:
            return None
        for name, range_ in self.space.items():
            if name not in update.hyperparameters or not _is_numeric(range_):
                return None
        for name, value in self.fixed.items():
            if name in update.hyperparameters:
                has_fallback = value is None and name in update.fallbacks
                if not (has_fallback or isinstance(value, bool | int | float)):
                    return None
            elif (
                name not in update.variants | _SPEED_ONLY
                and value != self._arguments.defaults.get(name)
            ):
                return None
        return update


class _Arguments:
    """What an optimizer class takes besides its parameters."""

    def __init__(self, species_name: str, optimizer_class: type[torch.optim.Optimizer]) -> None:
        self._species_name = species_name
        signature = inspect.signature(optimizer_class)
        self._arguments = {
            name: argument
            for name, argument in list(signature.parameters.items())[1:]
            if name not in _NOT_SEARCHED
        }
        kinds = {argument.kind for argument in self._arguments.values()}
        self._takes_anything = inspect.Parameter.VAR_KEYWORD in kinds
        self.packed = {name: _PACKED[name] for name in _PACKED if name in self._arguments}
        self.defaults: dict[str, Any] = {}
        for name, argument in self._arguments.items():
            if argument.default is inspect.Parameter.empty:
                continue
            if name in self.packed:
                self.defaults.update(zip(self.packed[name], argument.default, strict=True))
            else:
                self.defaults[name] = argument.default
        variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        self.names = {
            part
            for name, argument in self._arguments.items()
            if argument.kind not in variadic
            for part in self.packed.get(name, (name,))
        }

    def check_name(self, name: str) -> None:
        """Refuse a name that the optimizer would refuse, and say which there are."""
        if name in self.names or self._takes_anything:
            return
        guesses = difflib.get_close_matches(name, self.names, n=1)
        hint = f" Did you mean {guesses[0]!r}?" if guesses else ""
        raise ConfigurationError(
            f"{self._species_name} has no hyperparameter {name!r}.{hint} It takes "
            f"{_listed(self.names)}."
        )

    def is_whole(self, name: str) -> bool:
        """Whether an argument is declared as an int."""
        argument = self._arguments.get(name)
        return argument is not None and argument.annotation in (int, "int")

    def pack(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Put parts such as beta1 and beta2 together again."""
        packed = dict(values)
        for name, parts in self.packed.items():
            if any(part in values for part in parts):
                packed[name] = tuple(packed.pop(part, self.defaults.get(part)) for part in parts)
        return packed


def _needs_closure(optimizer_class: type[torch.optim.Optimizer]) -> bool:
    if issubclass(optimizer_class, RuleOptimizer):  # most of their rules do
        return True
    closure = inspect.signature(optimizer_class.step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty


def ends(range_: Range) -> Sequence[Value]:
    """The ends of a range, or all choices."""
    return range_.values if isinstance(range_, Choices) else (range_.low, range_.high)


def _is_numeric(range_: Range) -> bool:
    return all(isinstance(value, bool | int | float) for value in ends(range_))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
