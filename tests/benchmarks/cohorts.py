"""A population in training, by this package and by the loop that people write without it."""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import optuna
import torch

import optuna_esgd as esgd
from optuna_esgd.engine.actions import Commit
from optuna_esgd.engine.individual import Individual
from optuna_esgd.native.compiler import FOLDER_VARIABLE
from optuna_esgd.species import SGD, Adam
from optuna_esgd.species.base import Species
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.sgd import Training
from optuna_esgd.trainer.workshop import TaskWorkshop
from tests.benchmarks.networks import NETWORKS

SPECIES: dict[str, Species] = {one.name: one for one in (SGD(), Adam())}


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is trained.

    Attributes:
        network: One of ``networks.NETWORKS``.
        population_size: Networks, about half of them of each species.
        n_examples: In an epoch.
        batch_size: Examples per step.
        device: Where.
        precision: ``"float32"`` or ``"bfloat16"``.
        n_threads: Of arithmetic in each process.
    """

    network: str
    population_size: int
    n_examples: int
    batch_size: int
    device: str = "cpu"
    precision: str = "float32"
    n_threads: int = 1

    @property
    def n_samples(self) -> int:
        """Examples that all networks together see in an epoch."""
        return self.population_size * self.n_examples

    def task(self) -> esgd.SupervisedTask:
        """The task, on noise."""
        return NETWORKS[self.network].task(
            n_examples=self.n_examples, batch_size=self.batch_size, precision=self.precision
        )

    def half(self) -> Load:
        """A process's share of it, if there are two."""
        return replace(self, population_size=self.population_size // 2)


class Ours:
    """A cohort as a worker of this package trains it.

    Attributes:
        individuals: Who is trained.
        training: The cohort; nothing but ``train_epoch`` is timed.
        backend: What it trains with.
    """

    def __init__(self, load: Load, backend: Any = "auto") -> None:
        torch.set_num_threads(load.n_threads)
        # So long that compiling pays, if it helps.
        sampler = esgd.ESGDSampler(load.population_size, seed=0, n_generations=10_000)
        study = optuna.create_study(sampler=sampler)
        trainer = ESGDTrainer(
            load.task(),
            species=list(SPECIES.values()),
            backend=backend,
            device=load.device,
            cohort_size=load.population_size,
        )
        loop = trainer.open(study)
        action = loop.decide()
        assert isinstance(action, Commit)
        assert isinstance(loop.workshop, TaskWorkshop)
        self.backend = loop.configuration.backend
        self.individuals: tuple[Individual, ...] = action.plan.individuals
        self.training: Training = loop.workshop.begin(self.individuals)[1]
        self._device = torch.device(load.device)
        self._n_epochs = 0

    def train_epoch(self) -> None:
        """Every network sees every example once, in its own order."""
        self.training.train_epoch(self._n_epochs)
        self._n_epochs += 1
        synchronize(self._device)


class Plain:
    """The same networks with the same optimizers, one after the other in a plain loop."""

    def __init__(self, load: Load, individuals: tuple[Individual, ...]) -> None:
        torch.set_num_threads(load.n_threads)
        task = load.task()
        self._task = task
        self._device = torch.device(load.device)
        self._examples = tuple(part.to(self._device) for part in task.train.tensors or ())
        model = task.build_model().to(self._device)
        self._models = [copy.deepcopy(model) for _ in individuals]
        self._optimizers = [
            SPECIES[one.species].build(each.parameters(), one.hyperparameters)
            for one, each in zip(individuals, self._models, strict=True)
        ]

    def train_epoch(self) -> None:
        """Every network sees every example once, in its own order."""
        inputs, targets = self._examples
        loss, size = self._task.loss, self._task.train.batch_size
        for model, optimizer in zip(self._models, self._optimizers, strict=True):
            model.train()
            for indices in torch.randperm(len(inputs), device=self._device).split(size):
                optimizer.zero_grad()
                with self._task.autocast(self._device):
                    value = loss(model(inputs[indices]), targets[indices])
                value.backward()
                optimizer.step()
        synchronize(self._device)


class Crew:
    """Processes that each train a cohort, an epoch at a time."""

    def __init__(self, load: Load, backend: str, n_processes: int = 2) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        for _ in range(n_processes):
            ours, theirs = spawn.Pipe()
            process = spawn.Process(target=_serve, args=(load, backend, theirs), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._wait()

    def train_epoch(self) -> None:
        """All at the same time; returns when the last one is done."""
        for connection in self._connections:
            connection.send(True)
        self._wait()

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.send(False)
        for process in self._processes:
            process.join()

    def _wait(self) -> None:
        for connection in self._connections:
            connection.recv()


@contextlib.contextmanager
def crew(load: Load, backend: str) -> Iterator[Crew]:
    """Two processes with half of the networks each."""
    made = Crew(load.half(), backend)
    try:
        yield made
    finally:
        made.close()


def _serve(load: Load, backend: str, connection: Connection) -> None:
    cohort = Ours(load, backend)
    cohort.train_epoch()
    connection.send(True)
    while connection.recv():
        cohort.train_epoch()
        connection.send(True)


@contextlib.contextmanager
def empty_cache() -> Iterator[None]:
    """A folder for kernels in which there are none yet, for this process and its children."""
    before = os.environ.get(FOLDER_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER_VARIABLE]
            if before is not None:
                os.environ[FOLDER_VARIABLE] = before


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
