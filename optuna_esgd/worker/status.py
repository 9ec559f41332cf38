"""How a population is doing, for people on a cluster without a browser."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import optuna
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Chronicle, Facts, Span
from optuna_esgd.store.opening import open_results
from optuna_esgd.trainer.esgd_trainer import GENERATIONS_ATTRIBUTE
from optuna_esgd.visualization.fitness_by_generation import fitness_by_generation
from optuna_esgd.visualization.history import Floats, History, history_of
from optuna_esgd.visualization.key_numbers import KeyNumbers, key_numbers
from optuna_esgd.visualization.species_share import species_share

_WATCH_SECONDS = 2.0
_RATE_GENERATIONS = 3
_WIDEST = 100
_BAR_WIDTH = 20
_NUMBERS_WIDTH = 32
_BARS = "▁▂▃▄▅▆▇█"


class WorkerStatus(NamedTuple):
    """One claimed slot.

    Attributes:
        name: Of the worker.
        work: What it does.
        seconds: For how long.
        is_lost: Whether its lease has run out: it is dead, or cut off from its database.
    """

    name: str
    work: str
    seconds: float
    is_lost: bool


class Status(NamedTuple):
    """A population's status.

    Attributes:
        study_name: As the user gave it.
        numbers: The key numbers.
        history: What the plots are made of.
        n_generations: K, if anybody has said so; no less than have been begun.
        round: The latest round of the latest generation; 0 trains, the others score offspring.
        is_over: Whether all generations are done, their evolution steps too.
        slots: How many of the round's slots are free, claimed, finished.
        workers: Who works on what.
        per_minute: Individuals trained in a minute lately; None before the second slot ends.
        seconds_left: Until all generations are done, at that rate; None if it is not known.
    """

    study_name: str
    numbers: KeyNumbers
    history: History
    n_generations: int | None
    round: int
    is_over: bool
    slots: Counter[str]
    workers: tuple[WorkerStatus, ...]
    per_minute: float | None
    seconds_left: float | None


def read_status(study: optuna.Study, *, store: str | None = None) -> Status:
    """Read a population's status.

    Raises:
        StudyError: The study has no population.
        StorageError: The database cannot be reached.
    """
    population = open_results(study, store)
    facts, chronicle = population.facts(), population.chronicle()
    history = history_of(chronicle, population.configuration, study.study_name)
    n_generations = study.user_attrs.get(GENERATIONS_ATTRIBUTE)
    if n_generations is not None:  # others may go on after the end that was announced last
        n_generations = max(n_generations, facts.n_generations_begun)
    per_minute = _rate(chronicle.spans, history.population_size)
    return Status(
        study_name=study.study_name,
        numbers=key_numbers(history),
        history=history,
        n_generations=n_generations,
        round=facts.round,
        is_over=_is_over(facts, Configuration.from_json(population.configuration), n_generations),
        slots=Counter(slot.state for slot in facts.slots),
        workers=_workers(facts, chronicle),
        per_minute=per_minute,
        seconds_left=_seconds_left(history, n_generations, per_minute),
    )


def show_status(study: optuna.Study, *, store: str | None = None, watch: bool = False) -> None:
    """Print the status; with ``watch``, keep it up to date until interrupted."""
    console = Console()
    if not watch:
        console.print(render(read_status(study, store=store), console.width))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(render(read_status(study, store=store), console.width), refresh=True)
            time.sleep(_WATCH_SECONDS)


def render(status: Status, width: int) -> RenderableType:
    """Lay a status out for a terminal of this many columns."""
    parts: list[RenderableType] = [_summary(status)]
    if status.history.n_individuals:
        parts += [_fitness(status.history, min(width, _WIDEST)), _species(status.history)]
    if status.workers:
        parts.append(_worker_table(status.workers))
    return Group(*parts)


def _is_over(facts: Facts, configuration: Configuration, n_generations: int | None) -> bool:
    if n_generations is None or not facts.slots:
        return False
    last_round = configuration.n_evolution_rounds if configuration.n_offspring else 0
    end = (n_generations - 1, last_round)
    return all(
        slot.key.generation >= n_generations  # planned before anybody knew K
        or (slot.key[:2] == end and slot.state == "finished")
        for slot in facts.slots
    )


def _rate(spans: Sequence[Span], population_size: int) -> float | None:
    """Individuals per minute over the last slots that trained."""
    ended = sorted(
        (span.finished_at, len(span.numbers))
        for span in spans
        if span.finished_at is not None and span.key.round == 0
    )
    recent: list[tuple[float, int]] = []
    for finished_at, n_individuals in reversed(ended):
        recent.append((finished_at, n_individuals))
        if sum(n for _, n in recent) > _RATE_GENERATIONS * population_size:
            break
    seconds = recent[0][0] - recent[-1][0] if recent else 0.0
    # The first of them began before: what it trained does not count.
    n_trained = sum(n for _, n in recent[:-1])
    return 60 * n_trained / seconds if seconds > 0 else None


def _seconds_left(
    history: History, n_generations: int | None, per_minute: float | None
) -> float | None:
    if n_generations is None or per_minute is None:
        return None
    n_left = n_generations * history.population_size - history.n_individuals
    return 60 * n_left / per_minute if n_left > 0 else None  # the last offspring, if anything


def _rate_in_words(per_minute: float) -> str:
    return f"{per_minute:{',.0f' if per_minute >= 100 else '.3g'}} individuals a minute"


def _workers(facts: Facts, chronicle: Chronicle) -> tuple[WorkerStatus, ...]:
    return tuple(
        WorkerStatus(
            name=span.worker,
            work=_work(span, facts),
            seconds=max(0.0, chronicle.read_at - span.claimed_at),
            is_lost=span.lease_until is not None and span.lease_until < chronicle.read_at,
        )
        for span in chronicle.spans
        if span.finished_at is None
    )


def _work(span: Span, facts: Facts) -> str:
    first, last = span.numbers[0], span.numbers[-1]
    numbers = str(first) if first == last else f"{first} to {last}"
    late = (
        "" if span.key.generation == facts.generation else f" of generation {span.key.generation}"
    )
    if span.key.round:
        return f"scores offspring {numbers}{late}"
    return f"trains individual{'' if first == last else 's'} {numbers}{late}"


def _summary(status: Status) -> Table:
    table = Table.grid(padding=(0, 2))
    numbers = status.numbers
    latest = 0 if numbers.generation is None else numbers.generation
    of_all = "" if status.n_generations is None else f" (of 0 to {status.n_generations - 1})"
    states = ", ".join(f"{status.slots[name]} {name}" for name in ("finished", "claimed", "free"))
    doing = f"{'training' if status.round == 0 else 'evolution'}: {states} slots"
    if all(one.is_lost for one in status.workers):
        doing += ", nobody at work"
    rows = {
        "study": escape(status.study_name),
        "generation": f"{latest}{of_all}",
        "now": "all generations have finished" if status.is_over else doing,
        "individuals": str(numbers.n_individuals),
        "best of all": "-" if numbers.best_value is None else f"{numbers.best_value:.6g}",
        "rate": "-" if status.per_minute is None else _rate_in_words(status.per_minute),
        "time left": "-" if status.seconds_left is None else duration(status.seconds_left),
    }
    for name, text in rows.items():
        table.add_row(f"[bold]{name}", text)
    return table


def _fitness(history: History, width: int) -> Table:
    """Best and median of those trained in each generation: little bars, and both ends."""
    values = fitness_by_generation(history).values
    table = Table.grid(padding=(0, 2))
    for name, line in (("best", values.best), ("median", values.median)):
        known = line[np.isfinite(line)]
        if len(known):
            ends = f"{known[0]:.4g} → {known[-1]:.4g}"
            table.add_row(f"[bold]{name}", sparkline(line, width - _NUMBERS_WIDTH), ends)
    return table


def sparkline(line: Floats, width: int) -> str:
    """A line of bars, the highest value highest; a gap where a value is not finite.

    Args:
        line: (generations,)
        width: Columns; if there are fewer than generations, some are left out evenly.
    """
    width = max(1, min(width, len(line)))
    shown = line[np.linspace(0, len(line) - 1, width).round().astype(int)]
    known = shown[np.isfinite(shown)]
    low = known.min(initial=np.inf)
    height = max(float(known.max(initial=-np.inf) - low), 1e-300)
    return "".join(
        _BARS[round((len(_BARS) - 1) * float((one - low) / height))] if np.isfinite(one) else " "
        for one in shown
    )


def _species(history: History) -> Table:
    shares = species_share(history)
    table = Table.grid(padding=(0, 2))
    latest = history.last_complete
    for number, name in enumerate(history.species):
        share, elite = shares.population[latest, number], shares.elite[latest, number]
        bar = "█" * round(_BAR_WIDTH * share)
        table.add_row(
            escape(name or "-"),
            f"{bar:<{_BAR_WIDTH}}",
            f"{share:.0%} of generation {latest}, {elite:.0%} of its elite",
        )
    return table


def _worker_table(workers: Sequence[WorkerStatus]) -> Table:
    table = Table("worker", "", "for", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for one in workers:
        lost = " (lease has run out)" if one.is_lost else ""
        table.add_row(escape(one.name), one.work, duration(one.seconds) + lost)
    return table


def duration(seconds: float) -> str:
    """Seconds in words, two units at most: ``3 h 20 min``."""
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for name, size in units:
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2]) if parts else "0 s"
