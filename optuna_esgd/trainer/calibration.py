"""Which backend is the fastest for a model: found by trying them when a study begins."""

from __future__ import annotations

import copy
import itertools
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from optuna_esgd.engine.configuration import Backend, Configuration
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.errors import EsgdError
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.evolution.space import Space, resample
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.species.base import Species
from optuna_esgd.trainer.batched import BatchedTraining
from optuna_esgd.trainer.batched_model import (
    BatchedModel,
    copied,
    why_not_batched,
    why_not_together,
)
from optuna_esgd.trainer.compiled_step import CompiledSteps
from optuna_esgd.trainer.native_model import NativeModel
from optuna_esgd.trainer.rows import RowTraining
from optuna_esgd.trainer.seeding import build_seeded, seeded
from optuna_esgd.trainer.sgd import Training
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import Task

_logger = logging.getLogger(__name__)

# Runs expected to be shorter, row by row, are not worth measuring, or compiling, for; longer where
# there is a kernel in C: no other backend was faster yet but, where that pays, a compiled one.
_SHORT_RUN_SECONDS = 10.0
_SHORT_NATIVE_RUN_SECONDS = 30.0
_COMPILED_RUN_SECONDS = 60.0
# A kernel in C is compiled in about a second, once for all studies of a network: as long as so
# many gradients of a small one take. Counted, not timed, so that equal studies choose alike.
_NATIVE_RUN_GRADIENTS = 4_000
# Compiled by torch a step is about twice as fast; a kernel that is faster still is not challenged.
_MUCH_FASTER = 0.5
# For studies that do not say how long they go on.
_USUAL_GENERATIONS = 20
# What is preferred unless another one is clearly faster, so that noise does not decide.
_CLEARLY_FASTER = 0.9
_N_ROUNDS = 3
_LONG_ROUND_SECONDS = 1.0
_SMALL_STEP_SECONDS = 0.01
_ROWS_OF_LARGE_MODELS = 4
_CLOCK_SECONDS = 1e-6  # a clock must be as fine as that to time a step


class Calibration:
    """Times the backends on a few batches of a task.

    Args:
        task: What is to be trained.
        configuration: How many, and for how long; the backend in it does not matter.
        species: By name.
        spaces: What is searched, by species.
        layout: The model's.
        device: Where to train.
    """

    def __init__(
        self,
        task: Task,
        configuration: Configuration,
        species: Mapping[str, Species],
        spaces: Mapping[str, Space],
        layout: Layout,
        device: torch.device,
    ) -> None:
        self._task = task
        self._configuration = configuration
        self._species = species
        self._spaces = spaces
        self._layout = layout
        self._device = device
        self._seconds: dict[Backend, float] = {}

    def choose(self) -> Backend:
        """The fastest backend that works, or the usual one where it hardly matters."""
        if not isinstance(self._task, SupervisedTask):
            return "rows"
        started = time.perf_counter()
        try:
            best = self._choose(self._task)
        except EsgdError:
            raise
        except Exception:  # whatever is wrong with the task, training it will say it better
            _logger.debug("The backends could not be measured.", exc_info=True)
            return "batched"
        if len(self._seconds) > 1:
            reference = self._seconds["rows"]
            _logger.info(
                "The study trains with backend=%r. Speed measured in %.1f s, as a multiple of row "
                "by row: %s.",
                best,
                time.perf_counter() - started,
                ", ".join(f"{n} {reference / s:.2f}" for n, s in self._seconds.items()),
            )
        return best

    def _choose(self, task: SupervisedTask) -> Backend:
        gradient_seconds = self._gradient_seconds(task)
        run_seconds = self._run_seconds(gradient_seconds)
        if run_seconds < _SHORT_NATIVE_RUN_SECONDS and self._is_worth_a_kernel(task):
            _logger.info("The study trains with backend='native': too short to measure others.")
            return "native"
        if run_seconds < _SHORT_RUN_SECONDS:
            # The workshop finds out if the model can be batched; if not, both names mean rows.
            return "batched"
        is_small = gradient_seconds < _SMALL_STEP_SECONDS
        n_rows = self._n_rows if is_small else min(self._n_rows, _ROWS_OF_LARGE_MODELS)
        task = _first_batches(task, 8 if is_small else 2)
        contenders: dict[Backend, Training] = {"rows": self._rows(task, "rows")}
        # Traced in the turn that warms up: what is timed is what most of a run is made of.
        model = copied(task, self._build(), self._device, n_calls=0)
        reason = self._why_not_batched(task, model)
        if reason is None and model is not None:
            contenders["batched"] = self._batched(task, model, n_rows)
            # Asked of all examples: some may have targets that no kernel takes.
            native = self._native_model(self._task) and self._native_model(task)
            if native is not None:
                contenders["native"] = self._batched(task, native, n_rows)
        else:
            _logger.info("The model trains row by row, not batched: %s.", reason)
        if any(len(entry.shape) == 4 for entry in self._layout.of_kind("parameter")):
            contenders["channels_last"] = self._rows(task, "channels_last")
        self._measure(contenders)
        # Compiling saves what lies between operations: where rows are as fast, that is little.
        is_worth_it = self._run_seconds(self._seconds[self._best()]) > _COMPILED_RUN_SECONDS
        if model is not None and self._can_be_compiled_faster() and is_worth_it:
            steps = CompiledSteps(task, model, self._layout, self._species, self._device)
            if steps.find(self._n_rows, min(task.train.batch_size, len(task.train))) is not None:
                compiled = self._batched(task, model, self._n_rows, steps)
                best = self._best()
                self._measure({best: contenders[best], "compiled": compiled})
        return self._best()

    def _is_worth_a_kernel(self, task: SupervisedTask) -> bool:
        """Whether there is a kernel, and enough to do for it."""
        return (
            self._n_gradients >= _NATIVE_RUN_GRADIENTS
            and why_not_together(self._species) is None
            and self._native_model(task) is not None
        )

    def _can_be_compiled_faster(self) -> bool:
        """Whether the batched step, if it were compiled, could be faster than the best so far."""
        best = self._best()
        return best == "batched" or (
            best == "native" and self._seconds["native"] > _MUCH_FASTER * self._seconds["batched"]
        )

    def _why_not_batched(self, task: SupervisedTask, model: BatchedModel | None) -> str | None:
        """Why the rows of a cohort cannot train as one computation."""
        with seeded(self._configuration.seed):
            reason, _ = why_not_batched(task, model, self._layout, self._device)
        return reason or why_not_together(self._species)

    def _native_model(self, task: Task) -> NativeModel | None:
        """A model with a kernel for its gradients, if there is one."""
        if not isinstance(task, SupervisedTask):
            return None
        built = self._build()
        if copied(task, built, self._device) is None:
            return None
        model = NativeModel(task, built, self._layout, self._device, n_calls=0)
        if model.why_not_trained is None:
            return model
        _logger.debug("The model has no kernel in C: %s.", model.why_not_trained)
        return None

    @property
    def _n_rows(self) -> int:
        return min(self._configuration.cohort_size, self._configuration.population_size)

    def _gradient_seconds(self, task: SupervisedTask) -> float:
        """What one network takes for the gradients of one batch."""
        model = self._build().train()
        inputs, targets = next(_first_batches(task, 1).train.batches(self._device))
        fastest = math.inf
        for _ in range(1 + _N_ROUNDS):
            started = self._clock()
            with seeded(self._configuration.seed), task.autocast(self._device):
                loss = task.loss(model(inputs), targets)
            loss.backward()
            fastest = min(fastest, self._clock() - started)
        return fastest

    @property
    def _n_gradients(self) -> int:
        """Of one network and one batch, in the whole run."""
        settings = self._configuration
        assert isinstance(self._task, SupervisedTask)  # noqa: S101  (checked by ``choose``)
        n_generations = settings.n_generations or _USUAL_GENERATIONS
        n_steps = n_generations * settings.n_epochs * self._task.train.n_batches
        return n_steps * settings.population_size

    def _run_seconds(self, step_seconds: float) -> float:
        """What the whole run would take if a step of one network takes so long."""
        return step_seconds * self._n_gradients

    def _best(self) -> Backend:
        """The first one in the order of preference that no other is clearly faster than."""
        fastest = min(self._seconds.values())
        order: tuple[Backend, ...] = ("batched", "rows", "channels_last", "native", "compiled")
        return next(
            one
            for one in order
            if one in self._seconds and self._seconds[one] * _CLEARLY_FASTER <= fastest
        )

    def _measure(self, contenders: Mapping[Backend, Training]) -> None:
        """Seconds per network and batch, the contenders taking turns; the first turn warms up."""
        numbers = itertools.count()
        for training in contenders.values():
            training.train_epoch(next(numbers))
        for _ in range(_N_ROUNDS):
            longest = 0.0
            for name, training in contenders.items():
                started = self._clock()
                spent = training.train_epoch(next(numbers))
                seconds = self._clock() - started
                longest = max(longest, seconds)
                each = max(seconds, _CLOCK_SECONDS) / max(1, sum(one.n_gradients for one in spent))
                self._seconds[name] = min(each, self._seconds.get(name, math.inf))
            if longest > _LONG_ROUND_SECONDS:
                return

    def _rows(self, task: SupervisedTask, backend: Backend) -> Training:
        individuals = self._individuals(min(2, self._n_rows))
        configuration = replace(self._configuration, backend=backend)
        return RowTraining(
            task,
            configuration,
            self._species,
            individuals,
            self._weights(len(individuals)),
            [{} for _ in individuals],
        )

    def _batched(
        self,
        task: SupervisedTask,
        model: BatchedModel,
        n_rows: int,
        steps: CompiledSteps | None = None,
    ) -> Training:
        individuals = self._individuals(n_rows)
        return BatchedTraining(
            task,
            model,
            self._configuration,
            self._species,
            individuals,
            self._weights(len(individuals)),
            [{} for _ in individuals],
            _no_scores,
            steps,
        )

    def _individuals(self, n: int) -> list[Individual]:
        """Founders of all species in turn, in the order that a cohort is trained in."""
        names = sorted(self._species, key=lambda name: (self._species[name].needs_closure, name))
        chosen = sorted((names[number % len(names)] for number in range(n)), key=names.index)
        individuals = []
        for number, name in enumerate(chosen):
            rng = stream(self._configuration.seed, number, "calibration")
            space = self._spaces[name]
            individuals.append(
                Individual(
                    reference=Reference(0, 0, number),
                    birth="founder",
                    species=name,
                    hyperparameters={key: resample(range_, rng) for key, range_ in space.items()},
                )
            )
        return individuals

    def _weights(self, n_rows: int) -> Matrix:
        weights = Matrix.zeros(self._layout, n_rows, self._device)
        model = self._build()
        for row in range(n_rows):
            weights.take_from(model, row)
        return weights

    def _build(self) -> nn.Module:
        return build_seeded(self._task, self._configuration, self._device)

    def _clock(self) -> float:
        """Seconds that do not depend on what else the processor does, where that can be had."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        is_fine = time.get_clock_info("thread_time").resolution <= _CLOCK_SECONDS
        if self._device.type == "cpu" and is_fine:
            return time.thread_time()
        return time.perf_counter()


def _first_batches(task: SupervisedTask, n: int) -> SupervisedTask:
    """The same task on its first batches, all of full size if there is one."""
    small = copy.copy(task)
    small.train = task.train.first(max(1, min(n, len(task.train) // task.train.batch_size)))
    return small


def _no_scores(weights: Matrix) -> list[float]:
    """Nothing is scored here."""
    return [0.0] * weights.n_rows
