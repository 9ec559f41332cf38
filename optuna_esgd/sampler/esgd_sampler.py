"""The sampler of a study that evolves."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GridSampler
from optuna.trial import FrozenTrial, TrialState

from optuna_esgd.engine.configuration import Configuration, ExploreName, Preset, Settings
from optuna_esgd.engine.explore import ExploreSpaces
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.ports import Explore
from optuna_esgd.errors import ConfigurationError, StudyError
from optuna_esgd.evolution.annealing import RateSchedule
from optuna_esgd.evolution.back_off import BackOff
from optuna_esgd.evolution.mating import Roulette
from optuna_esgd.evolution.selection import Selection
from optuna_esgd.evolution.space import Range, Space, Value
from optuna_esgd.sampler.births import Births
from optuna_esgd.sampler.distributions import (
    plain_value,
    suggest,
    to_distribution,
    to_range,
)
from optuna_esgd.sampler.proposals import ExploreSampler
from optuna_esgd.sampler.running_trials import RunningTrials

if TYPE_CHECKING:
    from optuna_esgd.sampler.held_slots import HeldSlot, HeldSlots


_OF_THIS_PROCESS = frozenset({"_held_slots", "_handed_out", "_births", "running_trials"})
_loading = threading.Lock()


class _NotPlanned(Enum):
    """The type of ``_NOT_PLANNED``."""

    NOT_PLANNED = "not planned"


# For a trial that stands for no individual with weights; None is a value.
_NOT_PLANNED: Final = _NotPlanned.NOT_PLANNED


class ESGDSampler(BaseSampler):
    """Sampler of a study whose trials evolve as a population (Cui et al. 2018).

    With an ``ESGDTrainer``, or with ``esgd.sgd_step`` in an objective, the trials are neural
    networks that coevolve under different optimizers; the sampler carries the settings of the run
    and answers ``trial.suggest_*`` with the values of the network that the trial stands for.

    With any other objective the hyperparameters themselves evolve: ``population_size`` founders
    spread over the whole space, then offspring of the best finished trials (the best ``n_elites``
    of all, and some of the newest at random). Conditional and dynamic spaces, parallel and
    distributed runs, ``enqueue_trial`` and ``PartialFixedSampler`` all work; failed and pruned
    trials are passed over, and trials that violate a constraint never become parents while there
    are others. Studies have one objective.

    Every draw has its own random stream, addressed by seed, trial and parameter: with a seed, the
    same trials come again whenever they run one after another, and parallel workers may share
    one seed.

    Example:
        Evolve the hyperparameters of any objective.

        >>> import optuna
        >>> from optuna_esgd import ESGDSampler
        >>> def objective(trial):
        ...     x = trial.suggest_float("x", -5, 5)
        ...     y = trial.suggest_float("y", -5, 5)
        ...     return (x - 1) ** 2 + (y + 2) ** 2
        >>> study = optuna.create_study(sampler=ESGDSampler(seed=0))
        >>> study.optimize(objective, n_trials=100)

        Train a population of networks for 20 generations.

        >>> study = optuna.create_study(sampler=ESGDSampler(seed=0))  # doctest: +SKIP
        >>> study.optimize(ESGDTrainer(task), n_trials=16 * 20)  # doctest: +SKIP

    Args:
        population_size: μ, how many individuals are alive; at least 2. Without weights, 8 finds
            more than 16 within the first few hundred trials.
        preset: What the settings left at None are: ``"coevolve"``, where hyperparameters and
            optimizer state are inherited, or ``"paper"``, where they are drawn anew in each
            generation. Concerns training only.
        seed: Root of every random draw; None for a seed that differs from study to study (with
            weights) or from sampler to sampler (without).
        n_offspring: λ, offspring bred in each evolution round; 4 μ if None (0 with
            truncation). Without weights, how far selection looks back: it sees the newest μ + λ
            trials.
        n_parents: ρ, parents of each offspring, averaged; at most μ.
        n_elites: m, how many of the best always survive; 0.6 μ if None.
        mutation_scale: σ_0, standard deviation of the first generation's mutations; σ_k = σ_0 / k.
            Of weights in their own unit, of hyperparameters as a share of their range.
        roulette: Parents' sectors on the wheel: linear in ``"rank"``, or ``"inverse"`` to the
            fitness as in the paper.
        selection: Who goes on after a generation: the m best and a random rest of parents and
            offspring (``"elitist"``), or, without offspring, everybody but the worst quarter,
            whose places go to copies of the best quarter; only copies explore then
            (``"truncation"``, population-based training). Concerns training only.
        n_epochs: K_s, epochs in one SGD step; 4 (``"coevolve"``) or 1 (``"paper"``) if None.
        n_evolution_rounds: K_v, evolution rounds in one generation. Concerns training only.
        n_generations: K, after which a trainer stops the study; None for as long as trials are
            asked for. Concerns training only.
        back_off: When an SGD step returns to an earlier point: ``"best"`` goes through all epochs
            and returns to the best point, ``"step"`` undoes every epoch that made it worse,
            ``"none"`` never does and gives up the guarantee; as the preset says if None.
        explore: How a network's hyperparameters come from its parent's: ``"perturb"`` them,
            ``"resample"`` from the whole space, or take the proposal of any Optuna sampler, which
            sees what past individuals gained from theirs (TPE, GP, ...); as the preset says if
            None. Concerns training only.
        resample_probability: Chance that an inherited choice is drawn anew (of a number, without
            weights: a tenth of it).
        keep_probability: Chance that a network trains on with the very hyperparameters of its
            parent, unperturbed (with ``"perturb"``); as the preset says if None. Concerns training
            only.
        n_auditions: How many sets of species and hyperparameters each founder tries, starting
            from the same weights and for an equal part of ``n_epochs`` each, to keep the one that
            took it furthest. As the preset says if None (as many as divide ``n_epochs``, 4 at
            most). Concerns trainers with several species, and without ``diversity``.
        inherit_optimizer_state: Whether momentum and the like are inherited while the species
            stays the same; as the preset says if None.
        learning_rate_decay: Factor per generation on both bounds of learning rates' range (not of
            one on a grid of steps, nor of choices); as the preset says if None.
        rate_schedule: What learning rates do within an SGD step: ``"constant"``, or ``"cosine"``:
            from the value the trial shows towards 0, epoch by epoch, and back up in the next
            generation; as the preset says if None. With ``sgd_step`` it concerns the optimizer
            given to it. Concerns training only.
        average_iterates: Whether after each epoch the mean of the weights that its steps went
            through is scored too, and kept where it is the best point of the SGD step: one more
            evaluation per epoch, mostly a better model. Needs ``back_off="best"``; as the preset
            says if None. With ``sgd_step`` it concerns the optimizer given to it. Concerns
            training only.
        average_steps: Whether the mean over all epochs of the SGD step so far is scored and kept
            likewise: one more evaluation per epoch but the first. Training then goes on from
            where it stood, also in the next generation, so that what is stored with the
            optimizer's state is as much again as the weights. Needs ``average_iterates``; as the
            preset says if None.
        asynchronous: Whether each individual goes on as soon as it has finished, without waiting
            for the rest of its generation. Then workers of unequal speed all stay busy, and the
            guarantee holds; but what comes out depends on how fast they are, not on the seed
            alone. Concerns training only.
        max_tries: Failures of user code after which an individual keeps its birth weights.
        lease_seconds: How long a silent worker keeps an individual from the others.

    Attributes:
        settings: What was set, as the trainer reads it.
        explore_sampler: The Optuna sampler given as ``explore``, if one was.
        running_trials: The trials this process stands by, in studies with weights.

    Raises:
        ConfigurationError: A setting is of the wrong type or out of range; also (it is a
            ``ValueError``) when the study has several objectives, at the first parameter.
    """

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
        selection: Selection = "elitist",
        n_epochs: int | None = None,
        n_evolution_rounds: int = 1,
        n_generations: int | None = None,
        back_off: BackOff | None = None,
        explore: Literal["perturb", "resample"] | BaseSampler | None = None,
        resample_probability: float = 0.1,
        keep_probability: float | None = None,
        n_auditions: int | None = None,
        inherit_optimizer_state: bool | None = None,
        learning_rate_decay: float | None = None,
        rate_schedule: RateSchedule | None = None,
        average_iterates: bool | None = None,
        average_steps: bool | None = None,
        asynchronous: bool = False,
        max_tries: int = 3,
        lease_seconds: float = 60.0,
    ) -> None:
        self.explore_sampler = explore if isinstance(explore, BaseSampler) else None
        if not isinstance(preset, str):
            raise ConfigurationError(f"preset must be 'coevolve' or 'paper', got {preset!r}.")
        self.settings = Settings(
            population_size=population_size,
            preset=preset,
            seed=seed,
            n_offspring=n_offspring,
            n_parents=n_parents,
            n_elites=n_elites,
            mutation_scale=mutation_scale,
            roulette=roulette,
            selection=selection,
            n_epochs=n_epochs,
            n_evolution_rounds=n_evolution_rounds,
            n_generations=n_generations,
            back_off=back_off,
            explore=_explore_name(explore),
            resample_probability=resample_probability,
            keep_probability=keep_probability,
            n_auditions=n_auditions,
            inherit_optimizer_state=inherit_optimizer_state,
            learning_rate_decay=learning_rate_decay,
            rate_schedule=rate_schedule,
            average_iterates=average_iterates,
            average_steps=average_steps,
            asynchronous=asynchronous,
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
        self.running_trials = RunningTrials()
        self._held_slots: HeldSlots | None = None
        # By thread too: studies in other threads, with trials of the same number, may share us.
        self._handed_out: dict[tuple[int, int], dict[str, Value]] = {}
        self._births = Births(self._configuration)

    def __getstate__(self) -> dict[str, Any]:
        """Settings and seed travel to other processes; slots, births and hooks do not."""
        return {name: one for name, one in self.__dict__.items() if name not in _OF_THIS_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin_process()

    @property
    def held_slots(self) -> HeldSlots:
        """Slots of running trials whose objective uses ``sgd_step``; loads the database layer."""
        from optuna_esgd.sampler.held_slots import HeldSlots  # noqa: PLC0415

        with _loading:
            if self._held_slots is None:
                self._held_slots = HeldSlots(self.running_trials)
            return self._held_slots

    def hand_out(self, trial_number: int, values: Mapping[str, Value]) -> None:
        """From now on, suggest these values to this trial, in this thread."""
        self._handed_out[threading.get_ident(), trial_number] = dict(values)

    def take_back(self, trial_number: int) -> None:
        """Forget what was handed out to this trial, if anything was."""
        self._handed_out.pop((threading.get_ident(), trial_number), None)

    def suggest_planned(
        self, trial: optuna.Trial, ranges: Mapping[str, Range], values: Mapping[str, Value]
    ) -> None:
        """Suggest planned values through Optuna's own API, so that its database shows them."""
        number = trial.number
        self.hand_out(number, values)
        try:
            for name, distribution in self.distributions(ranges).items():
                suggest(trial, name, distribution)
        finally:
            self.take_back(number)

    def distributions(self, ranges: Mapping[str, Range]) -> dict[str, BaseDistribution]:
        """The distributions Optuna shows ranges as."""
        return {name: to_distribution(range_) for name, range_ in ranges.items()}

    def set_generations(self, n_generations: int) -> None:
        """Change ``n_generations``, the one number of a run that may change at any time.

        Raises:
            ConfigurationError: It is not 1 or more.
        """
        settings = replace(self.settings, n_generations=n_generations)
        settings.configure(seed=0, cohort_size=None, maximize=False)
        self.settings = settings

    def explore_with(
        self,
        configuration: Configuration,
        spaces: Mapping[str, Space],
        history: Callable[[], Sequence[Individual]],
    ) -> Explore:
        """Where the hyperparameters of new individuals with weights come from."""
        if self.explore_sampler is None:
            return ExploreSpaces(configuration, spaces)
        return ExploreSampler(configuration, spaces, self.explore_sampler, history)

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
        if value is not _NOT_PLANNED:
            return value
        return self._births.find(study, trial).value(param_name, to_range(param_distribution))

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """In studies with weights, look now and then for trials whose workers are gone."""
        lease_seconds = self.settings.lease_seconds
        self.running_trials.begin(study, trial.number, lease_seconds=lease_seconds)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Forget the trial; a slot it holds is given back."""
        self._births.forget(study, trial)
        self.running_trials.end(study, trial.number)
        self.held_slots.release(study, trial.number, state, values)

    def reseed_rng(self) -> None:
        """Nothing to do: every draw has its own stream, whichever thread makes it."""

    def _slot_value(
        self, study: optuna.Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Value | _NotPlanned:
        """The value that the individual this trial stands for has, if it has weights."""
        value: Value | _NotPlanned = _NOT_PLANNED
        if (threading.get_ident(), trial.number) in self._handed_out:
            value = self._handed_value(trial.number, name)
        else:
            held = self.held_slots.find(study, trial.number, self.settings)
            if held is not None:
                value = self._explored_value(study, held, name, distribution)
        if value is _NOT_PLANNED:
            return _NOT_PLANNED
        try:
            return plain_value(distribution, value)
        except StudyError as error:
            raise StudyError(
                f"Parameter {name!r} of trial {trial.number} cannot take the value planned for "
                f"its individual: {error}"
            ) from None

    def _explored_value(
        self, study: optuna.Study, held: HeldSlot, name: str, distribution: BaseDistribution
    ) -> Value:
        """The value of an individual whose objective suggests its own hyperparameters."""
        if self.explore_sampler is None or held.ancestor is None or held.goes_on:
            return held.value(name, to_range(distribution))
        from optuna_esgd.sampler.step_proposals import propose  # noqa: PLC0415

        return propose(self.explore_sampler, study, held, name, distribution)

    def _handed_value(self, trial_number: int, name: str) -> Value:
        values = self._handed_out[threading.get_ident(), trial_number]
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


def _explore_name(explore: object) -> ExploreName | None:
    """What the settings call it; ``"sampler"`` itself is not for users."""
    match explore:
        case GridSampler() | BruteForceSampler():
            raise ConfigurationError(
                f"explore cannot be a {type(explore).__name__}, which lists values: it knows "
                "nothing of species and of what a parent had. Use 'perturb', 'resample', or a "
                "sampler such as TPESampler()."
            )
        case BaseSampler():
            return "sampler"
        case None | "perturb" | "resample":
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
