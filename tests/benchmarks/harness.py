"""What every benchmark needs: interleaved rounds, ratios of medians, and a file of results.

Machines are shared and noisy, so absolute times say little. Contenders take turns, round by round,
each in a new random order; what is reported is the ratio of their median times within one run.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Times of one contender, in seconds, round by round.

    Attributes:
        wall: By the clock on the wall.
        cpu: Of this process, all threads; without its children.
    """

    wall: list[float]
    cpu: list[float]

    @property
    def median(self) -> float:
        """Median time by the clock, in seconds."""
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        """Median processor time of this process, in seconds."""
        return statistics.median(self.cpu)


def take_turns(
    contenders: Mapping[str, Callable[[], object]],
    *,
    n_rounds: int = 7,
    n_warm_up: int = 1,
    seed: int = 0,
    settle: Callable[[], object] = lambda: None,
) -> dict[str, Timing]:
    """Time every contender once a round.

    Args:
        contenders: What is timed, by name.
        n_rounds: Rounds that count.
        n_warm_up: Rounds before them that do not.
        seed: Of the order within the rounds.
        settle: Called before each turn, untimed, so that nobody pays for what another has left
            behind.

    Returns:
        The times of each contender.
    """
    order = random.Random(seed)
    names = list(contenders)
    timings = {name: Timing([], []) for name in names}
    for number in range(n_warm_up + n_rounds):
        for name in order.sample(names, len(names)):
            settle()
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if number >= n_warm_up:
                timings[name].wall.append(wall)
                timings[name].cpu.append(cpu)
    return timings


def describe_machine() -> dict[str, Any]:
    """Processor, memory, load, software: what a figure depends on."""
    machine: dict[str, Any] = {
        "processor": _processor(),
        "n_cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    machine["summary"] = (
        f"{machine['gpu'] or machine['processor']}, {machine['n_cores']} cores, "
        f"torch {machine['torch']}, {machine['torch_threads']} thread(s) of arithmetic"
        + ("" if machine["load"] is None else f", load {machine['load']:.1f} at the start")
    )
    return machine


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Row:
    """A line of a benchmark's table.

    Attributes:
        measured: What was measured, in words.
        value: The figure: mostly a ratio of medians.
        unit: ``"x"`` for ratios, else a unit such as ``"claims/s"``.
        goal: What it should reach; None where nothing is asked of it.
        at_least: Whether the goal is a lower bound; else it is an upper one.
        notes: What has to be known to read the figure.
    """

    measured: str
    value: float
    unit: str = "x"
    goal: float | None = None
    at_least: bool = True
    notes: str = ""

    @property
    def is_reached(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.at_least else self.value <= self.goal


@dataclass(frozen=True)
class Report:
    """What a benchmark found.

    Attributes:
        name: Of its files in ``results/``: letters, digits and underscores.
        title: In words.
        command: What makes it again.
        rows: The table.
        raw: All times and settings, as JSON takes them.
        machine: On which machine; described by itself unless given.
    """

    name: str
    title: str
    command: str
    rows: Sequence[Row]
    raw: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=describe_machine)

    def markdown(self) -> str:
        """The table, with what it was measured on and by."""
        lines = [
            f"## {self.title}",
            "",
            f"`{self.command}` on {self.machine['summary']}",
            "",
            "| measured | value | goal | reached | notes |",
            "|---|---|---|---|---|",
        ]
        words = {True: "yes", False: "**no**", None: ""}
        for row in self.rows:
            bound = "≥" if row.at_least else "≤"
            goal = "" if row.goal is None else f"{bound} {row.goal:g} {row.unit}"
            lines.append(
                f"| {row.measured} | {row.value:.3g} {row.unit} | {goal} "
                f"| {words[row.is_reached]} | {row.notes} |"
            )
        return "\n".join(lines) + "\n"

    def save(self, folder: Path = RESULTS) -> None:
        """Write ``NAME.json`` and ``NAME.md``, and print the table."""
        folder.mkdir(parents=True, exist_ok=True)
        content = {**asdict(self), "rows": [asdict(row) for row in self.rows]}
        (folder / f"{self.name}.json").write_text(json.dumps(content, indent=1) + "\n")
        (folder / f"{self.name}.md").write_text(self.markdown(), encoding="utf-8")
        print(self.markdown(), flush=True)
