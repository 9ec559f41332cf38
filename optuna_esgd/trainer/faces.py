"""What the trainer needs of the study's sampler (a sibling layer it must not import)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import optuna

from optuna_esgd.engine.configuration import Configuration, Settings
from optuna_esgd.engine.individual import Claim, Individual
from optuna_esgd.engine.ports import Explore, GenerationLoop, Population
from optuna_esgd.errors import StudyError
from optuna_esgd.evolution.space import Range, Space, Value


class HeldSlot(Protocol):
    """A slot claimed for a trial that suggests its own hyperparameters.

    Attributes:
        claim: The claim to finish or release.
        individual: Who is trained in the slot.
        ancestor: The trained individual whose hyperparameters are inherited; None for founders.
    """

    claim: Claim
    individual: Individual
    ancestor: Individual | None


class HeldSlots(Protocol):
    """Slots by trial: claimed at a trial's first ``suggest_*``, or at ``sgd_step``."""

    def hold(self, study: optuna.Study, trial_number: int, *, loop: GenerationLoop) -> HeldSlot:
        """The trial's slot, claimed now if need be; evolution steps in between are done."""
        ...

    def drop(self, study: optuna.Study, trial_number: int) -> None:
        """Forget a slot that is finished or given back."""
        ...

    def claiming(self) -> contextlib.AbstractContextManager[object]:
        """While nobody else of this process claims, or does what stands in between."""
        ...

    def expect(self, study: optuna.Study, trial_number: int, value: float) -> None:
        """Know what a trial whose SGD step is finished is to return."""
        ...


class RunningTrials(Protocol):
    """Trials that workers stand by; those of dead workers fail."""

    def watch(
        self,
        study: optuna.Study,
        trial_number: int,
        population: Population,
        *,
        lease_seconds: float,
    ) -> None:
        """Stand by a trial that has begun, from now on until it ends."""
        ...

    def stand_by(self, study: optuna.Study, trial_number: int) -> None:
        """Let everybody know at once that a watched trial's worker is alive."""
        ...

    def fail(self, trial: optuna.Trial, reason: str) -> None:
        """Fail a trial of this process, saying why; one that has ended is left as it is."""
        ...

    def fail_lost(
        self, study: optuna.Study, population: Population, *, lease_seconds: float
    ) -> int:
        """Fail the running trials whose workers are gone; how many are left running."""
        ...


@runtime_checkable
class OptunaSampler(Protocol):
    """The part of ``ESGDSampler`` that the trainer uses."""

    settings: Settings

    @property
    def running_trials(self) -> RunningTrials:
        """The running trials of this process."""
        ...

    @property
    def held_slots(self) -> HeldSlots:
        """The slots of objectives that suggest their own hyperparameters."""
        ...

    def suggest_planned(
        self, trial: optuna.Trial, ranges: Mapping[str, Range], values: Mapping[str, Value]
    ) -> None:
        """Suggest planned values through Optuna's own API, so that its database shows them."""
        ...

    def distributions(
        self, ranges: Mapping[str, Range]
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        """The distributions Optuna shows ranges as."""
        ...

    def explore_with(
        self,
        configuration: Configuration,
        spaces: Mapping[str, Space],
        history: Callable[[], Sequence[Individual]],
    ) -> Explore:
        """Where new individuals' hyperparameters come from."""
        ...


def check_has_study(trial: object, who: str) -> None:
    """Refuse a trial of no study, such as a ``FixedTrial``.

    Raises:
        StudyError: See above.
    """
    if getattr(trial, "study", None) is None:
        raise StudyError(
            f"{who} needs a trial of a study, got {type(trial).__name__}: an individual is "
            "trained within a population. To try it, use a small study in memory."
        )


def find_sampler(study: optuna.Study) -> OptunaSampler:
    """The study's ESGDSampler.

    Raises:
        StudyError: The study has another sampler.
    """
    sampler: Any = study.sampler
    if isinstance(sampler, OptunaSampler):
        return sampler
    inner = getattr(sampler, "_base_sampler", None)
    if isinstance(inner, OptunaSampler):
        raise StudyError(
            f"{type(sampler).__name__} cannot fix hyperparameters of a population: they are "
            "planned for a whole generation. Fix them in the species, e.g. SGD(momentum=0.9)."
        )
    raise StudyError(
        f"ESGD needs a study with an ESGDSampler, got {type(sampler).__name__}. Write "
        "optuna.create_study(sampler=esgd.ESGDSampler(...)); a study that is loaded again needs "
        "sampler= as well."
    )
