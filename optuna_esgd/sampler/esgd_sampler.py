"""The sampler of a study that evolves."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from optuna_esgd.engine.configuration import Configuration, ExploreName, Preset, Settings
from optuna_esgd.engine.explore import ExploreSpaces
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.ports import Explore
from optuna_esgd.errors import ConfigurationError, StudyError
from optuna_esgd.evolution.back_off import BackOff
from optuna_esgd.evolution.mating import Roulette
from optuna_esgd.evolution.space import Space, Value
from optuna_esgd.sampler.births import Births
from optuna_esgd.sampler.distributions import plain_value, to_range
from optuna_esgd.sampler.held_slots import HeldSlots


class NotHandled(Enum):
    """The type of ``NOT_HANDLED``."""

    NOT_HANDLED = "not handled"


NOT_HANDLED: Final = NotHandled.NOT_HANDLED
"""What a ``slot_values`` hook returns for a trial it does not know: None is a value."""

SlotValues: TypeAlias = Callable[
    [optuna.Study, FrozenTrial, str, BaseDistribution], Value | NotHandled
]


class ESGDSampler(BaseSampler):
    """Evolves a study's trials as a population (Cui et al. 2018).

    Example:
        >>> import optuna
        >>> from optuna_esgd import ESGDSampler
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -5, 5)
        ...     return x**2
        >>> study = optuna.create_study(sampler=ESGDSampler(seed=0))
        >>> study.optimize(objective, n_trials=100)
    """

    slot_values: SlotValues | None = None

    def __init__(  # noqa: PLR0913  (the numbers of Algorithm 1, each with its name)
        self,
        population_size: int = 16,
        *,
        preset: Preset = "coevolve",
        seed: int | None = None,
        n_offspring: int | None = None,
        n_parents: int = 2,
        n_elites: int | None = None,
        mutation_scale: float = 0.01,
        roulette: Roulette = "rank",
        n_epochs: int | None = None,
        n_evolution_rounds: int = 1,
        n_generations: int | None = None,
        back_off: BackOff | None = None,
        explore: Literal["perturb", "resample"] | BaseSampler | None = None,
        resample_probability: float = 0.1,
        inherit_optimizer_state: bool | None = None,
        learning_rate_decay: float | None = None,
        max_tries: int = 3,
        lease_seconds: float = 60.0,
    ) -> None:
        self.explore_sampler = explore if isinstance(explore, BaseSampler) else None
        explore_name: ExploreName | None = (
            "sampler" if isinstance(explore, BaseSampler) else _explore_name(explore)
        )
        self.settings = Settings(
            population_size=population_size,
            preset=preset,
            seed=seed,
            n_offspring=n_offspring,
            n_parents=n_parents,
            n_elites=n_elites,
            mutation_scale=mutation_scale,
            roulette=roulette,
            n_epochs=n_epochs,
            n_evolution_rounds=n_evolution_rounds,
            n_generations=n_generations,
            back_off=back_off,
            explore=explore_name,
            resample_probability=resample_probability,
            inherit_optimizer_state=inherit_optimizer_state,
            learning_rate_decay=learning_rate_decay,
            max_tries=max_tries,
            lease_seconds=lease_seconds,
        )
        # Validated here; without weights this is also what evolution uses.
        self._configuration = self.settings.configure(
            seed=secrets.randbits(63), cohort_size=None, maximize=False
        )
        self._begin_process()

    def _begin_process(self) -> None:
        """Set up what belongs to this process only."""
        self.slot_values = None
        self.held_slots = HeldSlots()
        self._handed_out: dict[int, dict[str, Value]] = {}
        self._births = Births(self._configuration)

    def __getstate__(self) -> dict[str, Any]:
        """Settings travel; slots and hooks stay with their process."""
        return {
            name: getattr(self, name) for name in ("settings", "explore_sampler", "_configuration")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin_process()

    def hand_out(self, trial_number: int, values: Mapping[str, Value]) -> None:
        """From now on, suggest these values to this trial."""
        self._handed_out[trial_number] = dict(values)

    def take_back(self, trial_number: int) -> None:
        """Forget what was handed out to this trial, if anything was."""
        self._handed_out.pop(trial_number, None)

    def explore_with(
        self,
        configuration: Configuration,
        spaces: Mapping[str, Space],
        history: Callable[[], Sequence[Individual]],
    ) -> Explore:
        """Where the hyperparameters of new individuals with weights come from."""
        del history
        return ExploreSpaces(configuration, spaces)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """No parameter needs the others to be known: spaces may be conditional."""
        del trial
        _refuse_several_objectives(study)
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample every parameter of a given space by itself."""
        return {
            name: self.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """The trial's value for one parameter."""
        _refuse_several_objectives(study)
        value = self._slot_value(study, trial, param_name, param_distribution)
        if value is not NOT_HANDLED:
            return value
        return self._births.find(study, trial).value(param_name, to_range(param_distribution))

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Forget the trial; a slot it holds is given back."""
        del state, values
        self._births.forget(study, trial)
        self.held_slots.release(study, trial.number)

    def reseed_rng(self) -> None:
        """Nothing to do: every draw has its own stream, whichever thread makes it."""

    def _slot_value(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Value | NotHandled:
        """The value that the individual this trial stands for has; NOT_HANDLED without weights."""
        value: Value | NotHandled = NOT_HANDLED
        if self.slot_values is not None:
            value = self.slot_values(study, trial, name, distribution)
        if value is NOT_HANDLED and trial.number in self._handed_out:
            value = self._handed_value(trial.number, name)
        if value is NOT_HANDLED:
            held = self.held_slots.find(study, trial.number)
            value = NOT_HANDLED if held is None else held.value(name, to_range(distribution))
        if value is NOT_HANDLED:
            return NOT_HANDLED
        try:
            return plain_value(distribution, value)
        except StudyError as error:
            raise StudyError(
                f"Parameter {name!r} of trial {trial.number} cannot take the value planned for "
                f"its individual: {error}"
            ) from None

    def _handed_value(self, trial_number: int, name: str) -> Value:
        values = self._handed_out[trial_number]
        if name not in values:
            raise StudyError(
                f"Trial {trial_number} asks for the parameter {name!r}, but its individual has "
                f"{sorted(values)} only."
            )
        return values[name]


def unwrap(sampler: BaseSampler) -> ESGDSampler | None:
    """Find the ESGDSampler inside samplers that wrap it (``PartialFixedSampler``)."""
    inner: BaseSampler | None = sampler
    while inner is not None and not isinstance(inner, ESGDSampler):
        inner = getattr(inner, "_base_sampler", None)
    return inner


def _explore_name(explore: object) -> Any:
    """Leave the two names; anything else is refused here, since ``"sampler"`` is not for users."""
    if explore in ("perturb", "resample", None):
        return explore
    raise ConfigurationError(
        f"explore must be 'perturb', 'resample' or an Optuna sampler, got {explore!r}."
    )


def _refuse_several_objectives(study: optuna.Study) -> None:
    if study._is_multi_objective():
        raise ConfigurationError(
            f"ESGDSampler evolves one fitness, but the study has {len(study.directions)} "
            "directions. Create the study with direction= instead of directions=, or use "
            "optuna.samplers.NSGAIISampler."
        )
