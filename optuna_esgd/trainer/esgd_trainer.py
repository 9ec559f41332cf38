"""``study.optimize(ESGDTrainer(task), ...)``: the objective that trains a population."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import optuna
import torch
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import Trial, TrialState
from torch import Tensor, nn

from optuna_esgd.engine.configuration import (
    BACKENDS,
    OF_DIVERSITY,
    OF_SPECIES,
    Backend,
    Configuration,
)
from optuna_esgd.engine.ports import Explore, Population
from optuna_esgd.errors import ConfigurationError, StudyError
from optuna_esgd.genome.layout import Layout
from optuna_esgd.operators import (
    DiversityLike,
    MutationLike,
    resolve_diversity,
    resolve_mutation,
)
from optuna_esgd.species import SGD, Adam, resolve_species
from optuna_esgd.species.base import Species
from optuna_esgd.store.lease import worker_name
from optuna_esgd.store.opening import find_population, open_population
from optuna_esgd.store.trial_rows import find_trial_rows
from optuna_esgd.store.write_behind import WriteBehind
from optuna_esgd.trainer.births import Ancestors, Births
from optuna_esgd.trainer.calibration import Calibration
from optuna_esgd.trainer.direction import check_direction, warn_of_direction
from optuna_esgd.trainer.diversity import check_cohort
from optuna_esgd.trainer.examples import digest_of
from optuna_esgd.trainer.faces import OptunaSampler, check_has_study, find_sampler
from optuna_esgd.trainer.first_examples import check_builds_anew, check_examples
from optuna_esgd.trainer.landscape import TaskLandscape, check_can_ask, check_can_move
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.seeding import seeded
from optuna_esgd.trainer.show import (
    replace_trial,
    show_in_new_trial,
    show_individual,
    show_together,
)
from optuna_esgd.trainer.spaces import check_schedule, join_spaces
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import Task, shown_value, with_gradients
from optuna_esgd.trainer.workshop import TaskWorkshop

_OF_THIS_PROCESS = frozenset({"_loops", "_opening", "_working"})
# Above this many parameters one network keeps a device busy, and a cohort would only cost memory.
_LARGE_MODEL_PARAMETERS = 2_000_000
# The study's attribute that says how long it goes on, for whoever only looks on.
GENERATIONS_ATTRIBUTE = "esgd_generations"
_LOST_LEASE = "The lease of this trial ran out; its worker went on with another one."
# Individuals that are reserved at once where their trials are made through Optuna's API.
_SHOWN_AT_A_TIME = 8


class ESGDTrainer:
    """An Optuna objective that trains a population of networks by ESGD.

    One trial is one individual's SGD step in one generation: its parameters are the species and
    its hyperparameters, its value is the fitness at the end. The study needs an ``ESGDSampler``,
    which holds the numbers of the algorithm.

    Example:
        >>> study = optuna.create_study(sampler=esgd.ESGDSampler(population_size=16, seed=0))
        >>> study.optimize(esgd.ESGDTrainer(task), n_trials=16 * 20)  # 20 generations
        >>> model = esgd.load_best(study, task.build_model())

    Args:
        task: What is trained.
        species: Optimizers that coevolve: objects such as ``SGD(lr=(1e-3, 1e-1))``, names of
            stock species, or ``torch.optim`` classes. SGD and Adam if None.
        anchor: Weights to start from (a model or its state dict): founder 0 is an exact copy, the
            others are perturbed by ``mutation_scale``. The result is never worse than it.
        cohort_size: Individuals that train together as one computation. The default is the whole
            population for small supervised models, and 1 for your own tasks, for more than two
            million parameters, and in an asynchronous run. Workers share the cohorts out among
            themselves, so with W workers choose at most ``population_size / W``.
        mutation: How offspring are moved away from the mean of their parents: ``"gaussian"``
            noise; ``"gradient_noise"`` or ``GradientNoiseMutation(...)``; ``"metropolis"`` or
            ``MetropolisMutation(...)``; ``"path"`` or ``PathMutation()`` for networks of modules;
            or an object of your own (see ``operators.Mutation``).
        diversity: What happens among the individuals of a cohort: ``"suppression"`` of updates
            like a fitter one's, ``"coupling"`` to the mean, objects such as
            ``ClusterSuppression(distance=0.1)`` or ``ElasticCoupling(0.02)``, or nothing.
        backend: How cohorts are computed: ``"batched"`` (all networks as one computation),
            ``"compiled"`` (the same by ``torch.compile``, which takes seconds at first),
            ``"native"`` (by C code written for a feed-forward network, see ``native``; batched
            where that cannot be done), ``"rows"`` (one network after the other), or
            ``"channels_last"`` (the same, images laid out pixel by pixel, which suits
            convolutions). ``"auto"`` measures them when a study begins, if there is enough to do.
            The study remembers the choice: results differ in rounding, so name one where they
            must be the same another time.
        device: Where to train, e.g. ``"cuda:1"``; the first GPU if there is one, else the CPU.
        store: Database URL for weights and fitness; the study's own database if None.

    Attributes:
        expected_workers: How many will share a population that is not there yet: the default
            cohort size leaves each of them something to do.
        device: Where it trains.
        diversity: See above, resolved; None for nothing.
        described: What a study remembers of this trainer, in words.

    Raises:
        ConfigurationError: An argument is out of range or of the wrong kind.
    """

    expected_workers = 1

    def __init__(  # noqa: PLR0913  (a declaration: all by keyword)
        self,
        task: Task,
        *,
        species: Sequence[Species | str | type[torch.optim.Optimizer]] | None = None,
        anchor: nn.Module | Mapping[str, Tensor] | None = None,
        cohort_size: int | None = None,
        mutation: MutationLike = "gaussian",
        diversity: DiversityLike | None = None,
        backend: Backend | Literal["auto"] = "auto",
        device: str | torch.device | None = None,
        store: str | None = None,
    ) -> None:
        if backend not in ("auto", *BACKENDS):
            raise ConfigurationError(
                f"backend must be 'auto' or one of {BACKENDS}, got {backend!r}."
            )
        if not isinstance(task, Task):
            raise ConfigurationError(
                f"task must be a Task (SupervisedTask or a subclass of yours), got "
                f"{type(task).__name__}."
            )
        self.task = task
        self.species = {
            one.name: one
            for one in resolve_species((SGD(), Adam()) if species is None else species)
        }
        self.store = store
        self._spaces = join_spaces(self.species, task)
        check_schedule(self.species, task)
        self._mutation = resolve_mutation(mutation)
        check_can_ask(self._mutation, task)
        self.diversity = resolve_diversity(diversity)
        self._anchor = _as_state(anchor)
        self.described = self._describe()
        self._cohort_size = cohort_size
        self._backend = None if backend == "auto" else backend
        self.device = _usable_device(device)
        self._begin_process()

    def _begin_process(self) -> None:
        """Set up what belongs to this process only."""
        self._loops: weakref.WeakKeyDictionary[Any, dict[int, WorkLoop]] = (
            weakref.WeakKeyDictionary()
        )
        self._opening = threading.Lock()
        self._working = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to this process only."""
        return {name: it for name, it in vars(self).items() if name not in _OF_THIS_PROCESS}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """As another process, or a copy, has it."""
        vars(self).update(state)
        self._begin_process()

    @with_gradients
    def __call__(self, trial: Trial) -> float:
        """Give this trial an individual: one that is finished already, or one trained now.

        Raises:
            optuna.TrialPruned: All generations are done; the study is told to stop.
        """
        _refuse_fixed_parameters(trial)
        while True:
            try:
                return self._show_one(trial)
            except UpdateFinishedTrialError:
                # This process was silent for a whole lease, and the others have given it up.
                replace_trial(trial, find_sampler(trial.study), _LOST_LEASE)

    def _show_one(self, trial: Trial) -> float:
        """Give the trial an individual and write it there; its value."""
        study, running = trial.study, find_sampler(trial.study).running_trials
        with self._opening:
            loop = self.open(study)
        population, configuration = loop.population, loop.configuration
        running.watch(study, trial.number, population, lease_seconds=configuration.lease_seconds)
        # Models and torch's global generator are shared by the threads of n_jobs.
        with self._working:
            individual = loop.next_individual(
                trial.number, lambda: running.stand_by(study, trial.number)
            )
        if individual is None:
            study.stop()
            raise optuna.TrialPruned(f"All {configuration.n_generations} generations are done.")
        try:
            show_individual(
                trial,
                individual,
                find_sampler(study),
                self._spaces,
                configuration,
                find_trial_rows(study, population),
            )
        except BaseException:  # this trial will fail: another one must show the individual
            population.unassign_trials([trial.number])
            raise
        return shown_value(individual.fitness_or_inf, maximize=configuration.maximize)

    def show_finished(self, study: optuna.Study) -> int:
        """Make trials for finished individuals that have none; how many.

        For workers that train first and ask for trials later; in ``study.optimize`` trials come
        first, and each of them shows one individual.
        """
        with self._opening:
            loop = self.open(study)
        population, configuration = loop.population, loop.configuration
        rows = find_trial_rows(study, population)
        if rows is not None:
            return show_together(rows, find_sampler(study), self._spaces, configuration)
        sampler = find_sampler(study)
        n_shown = 0
        # A few at a time: all of them might take longer than the lease, through a busy proxy.
        while reserved := population.reserve_unshown(
            lease_seconds=configuration.lease_seconds, most=_SHOWN_AT_A_TIME
        ):
            for one in reserved:
                show_in_new_trial(study, population, one, sampler, self._spaces, configuration)
            n_shown += len(reserved)
        return n_shown

    def to(self, device: str | torch.device | None) -> Self:
        """Train on another device from now on; see the argument ``device``.

        Raises:
            ConfigurationError: This machine has no such device.
        """
        self.device = _usable_device(device)
        self._loops.clear()
        return self

    def open(self, study: optuna.Study) -> WorkLoop:
        """The work loop of this worker on a study's population, which is made if need be.

        Raises:
            StudyError: The study cannot be trained with this trainer.
            ConfigurationError: The population was made with other settings or another model.
        """
        loops = self._loops.setdefault(study._storage, {})
        key = study._study_id
        if key in loops:  # what may change between two openings may have changed
            population, configuration = self._open_population(study, self._cohort_size)
            if population.uuid == loops[key].population.uuid:
                loops[key].configuration = configuration
                return loops[key]
        # SQLite gives the id of a deleted study to the next one.
        loops[key] = self._open(study)
        return loops[key]

    def check(self, directions: Sequence[StudyDirection]) -> None:
        """Refuse what could not be trained, before a study is made for it.

        Args:
            directions: Of the study to come.

        Raises:
            ConfigurationError: See ``trainer.first_examples``; or the model is not for one of the
                species or the mutation; or the study would go the wrong way.
        """
        model = self._build_model()
        self._check_model(model, directions)
        self._check_examples(model)

    def _check_model(self, model: nn.Module, directions: Sequence[StudyDirection]) -> None:
        check_direction(directions, self.task)
        for species in self.species.values():
            species.check_model(model)
        check_can_move(self._mutation, model)

    def _check_examples(self, model: nn.Module) -> None:
        check_builds_anew(self._build_model, model)
        if isinstance(self.task, SupervisedTask):
            with seeded(0):  # which leaves random numbers as they are
                check_examples(self.task, model, self.species, device=self.device)

    def workshop(
        self, ancestors: Ancestors, configuration: Configuration, layout: Layout
    ) -> TaskWorkshop:
        """Where slots of such a run are worked off.

        Args:
            ancestors: Where parents' weights are read.
            configuration: The run's settings.
            layout: The model's layout.
        """
        births = Births(
            ancestors,
            configuration,
            layout=layout,
            build_model=self.task.build_model,
            calibrate=self.task.calibrate,
            anchor=self._anchor,
            device=self.device,
            mutation=None
            if self._mutation is None
            else (self._mutation, TaskLandscape(self.task, configuration)),
        )
        return TaskWorkshop(
            self.task,
            configuration,
            self.species,
            births,
            layout,
            self.device,
            mutation=self._mutation,
            diversity=self.diversity,
        )

    def check_configuration(self, stored: Mapping[str, Any]) -> Configuration:
        """The settings of a run that was made with this trainer.

        Args:
            stored: As a population has them.

        Raises:
            ConfigurationError: It was made with another one; says what differs.
        """
        configuration = Configuration.from_json({**stored, "described": self.described})
        configuration.check_same(stored)
        return configuration

    def build_layout(self) -> Layout:
        """The layout of the task's models."""
        return Layout.of(self._build_model())

    def _build_model(self) -> nn.Module:
        with seeded(0):
            return self.task.build_model()

    def _describe(self) -> dict[str, str]:
        """What a study remembers of this trainer, in words."""
        choices = {"mutation": self._mutation, OF_DIVERSITY: self.diversity}
        return {
            **{f"{OF_SPECIES}{name!r}": repr(one) for name, one in self.species.items()},
            **{f"task's {name!r}": repr(range_) for name, range_ in self.task.space.items()},
            **{name: repr(choice) for name, choice in choices.items() if choice is not None},
            "anchor": _describe_anchor(self._anchor),
            **self.task.describe(),
        }

    def _open_population(
        self,
        study: optuna.Study,
        cohort_size: int | None,
        first_backend: Backend | None = None,
    ) -> tuple[Population, Configuration]:
        return open_population(
            study,
            find_sampler(study).settings,
            cohort_size=cohort_size,
            described=self.described,
            backend=self._backend,
            first_backend=first_backend,
            store=self.store,
        )

    def _refuse_foreign_trials(self, study: optuna.Study) -> None:
        n_finished = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        # If there is a population now, another worker has made it, and perhaps the trials.
        if n_finished and find_population(study, self.store) is None:
            raise StudyError(
                f"The study already has {n_finished} finished trials that were made without this "
                "trainer (by another sampler or objective); populations are never mixed with "
                "them. Use another study_name."
            )

    def _open(self, study: optuna.Study) -> WorkLoop:
        sampler = find_sampler(study)
        model = self._build_model()
        layout = Layout.of(model)
        self._check_model(model, study.directions)
        cohort_size, first_backend = self._cohort_size, None
        if find_population(study, self.store) is None:
            self._refuse_foreign_trials(study)
            warn_of_direction(study, self.task)
            self._check_examples(model)
            if cohort_size is None:
                cohort_size = self._default_cohort_size(sampler, model)
            if self._backend is None:
                first_backend = self._choose_backend(study, cohort_size, layout)
        if cohort_size is not None:
            check_cohort(self.diversity, cohort_size)
        population, configuration = self._open_population(study, cohort_size, first_backend)
        population.check_layout(layout.to_json())
        _announce_generations(study, population, configuration.n_generations)
        store = WriteBehind(population)
        workshop = self.workshop(store, configuration, layout)
        workshop.worker_name = worker_name
        explore: Explore = sampler.explore_with(
            configuration,
            self._spaces,
            lambda: [one for one in store.individuals() if one.reference.round == 0],
        )
        loop = WorkLoop(store, configuration, explore, workshop)
        loop.tell, loop.forget = workshop.births.learn, workshop.births.forget
        return loop

    def _default_cohort_size(self, sampler: OptunaSampler, model: nn.Module) -> int | None:
        """None leaves it to the settings."""
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        is_small = n_parameters <= _LARGE_MODEL_PARAMETERS
        if not (isinstance(self.task, SupervisedTask) and is_small):
            return 1
        if self.expected_workers == 1:
            return None
        return -(-sampler.settings.population_size // self.expected_workers)

    def _choose_backend(
        self, study: optuna.Study, cohort_size: int | None, layout: Layout
    ) -> Backend:
        """By measuring, for a study that has no population yet."""
        configuration = find_sampler(study).settings.configure(
            seed=0,
            cohort_size=cohort_size,
            maximize=study.direction == optuna.study.StudyDirection.MAXIMIZE,
        )
        calibration = Calibration(
            self.task, configuration, self.species, self._spaces, layout, self.device
        )
        return calibration.choose()


def _announce_generations(
    study: optuna.Study, population: Population, n_generations: int | None
) -> None:
    """Say when the study ends, unless others have begun to train generations after that."""
    if study.user_attrs.get(GENERATIONS_ATTRIBUTE) == n_generations:
        return
    if n_generations is None or n_generations >= population.facts().n_generations_begun:
        study.set_user_attr(GENERATIONS_ATTRIBUTE, n_generations)


def _usable_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigurationError(
            f"device must be one this machine has, e.g. 'cpu' or 'cuda:0', got {device!r}: "
            f"{reason}"
        ) from None


def _as_state(anchor: nn.Module | Mapping[str, Tensor] | None) -> Mapping[str, Tensor] | None:
    if anchor is None:
        return None
    got, state = type(anchor).__name__, anchor
    if isinstance(anchor, nn.Module):
        state = anchor.state_dict()
    if isinstance(state, Mapping):
        if state and all(isinstance(one, Tensor) for one in state.values()):
            return state
        kinds = sorted({type(one).__name__ for one in state.values()})
        got += f" of {' and '.join(kinds) or 'nothing'}"
    raise ConfigurationError(
        f"anchor must be a model or its state dict, which holds tensors by name, got {got}. Load "
        "files first, e.g. with safetensors.torch.load_file."
    )


def _describe_anchor(anchor: Mapping[str, Tensor] | None) -> str:
    return "none" if anchor is None else digest_of(anchor[name] for name in sorted(anchor))


def _refuse_fixed_parameters(trial: Trial) -> None:
    """An individual's hyperparameters are part of its plan; a trial cannot bring others."""
    check_has_study(trial, "An ESGDTrainer")
    if trial._fixed_params:
        raise StudyError(
            "enqueue_trial cannot choose hyperparameters for an ESGDTrainer: they are planned for "
            "a whole generation. Narrow the species' ranges instead, e.g. SGD(lr=(0.01, 0.1)), or "
            "use esgd.sgd_step in an objective of your own."
        )
