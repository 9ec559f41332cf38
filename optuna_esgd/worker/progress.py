"""One progress display for a whole population, whoever works on it."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from optuna_esgd.engine.individual import Facts
from optuna_esgd.errors import UnavailableError
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.task import shown_value

_READ_SECONDS = 1.0


class PopulationProgress:
    """A bar over all individuals of all generations; on a terminal it moves, elsewhere it logs.

    Args:
        loop: Of the population.
        console: Where it is shown.
    """

    def __init__(self, loop: WorkLoop, console: Console) -> None:
        self._population = loop.population
        self._configuration = loop.configuration
        self._console = console
        self._read_at = -float("inf")
        self._generation = -1
        self._is_answered = True
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        size, n_generations = loop.configuration.population_size, loop.configuration.n_generations
        total = None if n_generations is None else size * n_generations
        self._bar = self._progress.add_task("starting", total=total)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._is_answered:
            self.update(now=True)
        self._progress.stop()

    def update(self, *, now: bool = False) -> bool:
        """Read the facts, at most once a second unless told otherwise, and show them.

        Returns:
            Whether the database has answered, the last time it was asked.
        """
        if not now and time.monotonic() < self._read_at + _READ_SECONDS:
            return self._is_answered
        self._read_at = time.monotonic()
        try:
            facts = self._population.facts()
        except UnavailableError as error:
            self._is_answered = False
            self._console.log(f"{error} Waiting for it.", markup=False, highlight=False)
        else:
            self._is_answered = True
            self._show(facts)
        return self._is_answered

    def _show(self, facts: Facts) -> None:
        if facts.generation < 0:
            return
        n_done = sum(one.fitness is not None for one in facts.in_round(0))
        n_before = facts.generation * self._configuration.population_size
        text = self._describe(facts)
        self._progress.update(self._bar, completed=n_before + n_done, description=text)
        if facts.generation > self._generation and not self._console.is_terminal:
            self._console.log(text)
        self._generation = facts.generation

    def _describe(self, facts: Facts) -> str:
        n_finished = sum(slot.state == "finished" for slot in facts.slots)
        n_claimed = sum(slot.state == "claimed" for slot in facts.slots)
        what = "training" if facts.round == 0 else "evolution"
        text = (
            f"generation {facts.generation}, {what}: {n_finished} of {len(facts.slots)} slots "
            f"done, {n_claimed} worked on"
        )
        known = [one.fitness for one in facts.individuals if one.fitness is not None]
        born = [one.birth_fitness for one in facts.individuals if one.birth_fitness is not None]
        if known or born:
            best = shown_value(min(known + born), maximize=self._configuration.maximize)
            text += f", best {best:.6g}"
        return text
