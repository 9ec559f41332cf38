"""How large the database gets, and the memory of a worker."""

from __future__ import annotations

import math
import sys

import torch

from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.patient import Patient
from optuna_esgd.engine.configuration import Configuration, cohorts
from optuna_esgd.genome.codec import encode

_NAME = "space"


def examine_space(patient: Patient) -> Finding:
    """Count what can be stored at one time, and read how much memory this process took."""
    configuration = patient.configuration
    weights = patient.layout.n_bytes
    state = _state_bytes(patient) if configuration.inherit_optimizer_state else 0
    if configuration.average_steps and configuration.inherit_optimizer_state:
        state += weights  # how far training has got from the point that was kept
    stored = most_stored_bytes(
        configuration,
        weights=weights,
        state=state,
        n_workers=patient.n_workers,
    )
    written = configuration.population_size * (weights + state)
    memory = peak_memory(patient.device)
    trained = " with their optimizers' state" if state else ""
    found = (
        f"An individual has {size(weights)} of weights"
        f"{f' and up to {size(state)} of optimizer state' if state else ''}. The database holds "
        f"at most {size(stored)}: two generations{trained}, the best, and checkpoints. A "
        f"generation writes up to {size(written)}; what has not changed is not stored again."
    )
    if memory is not None:
        found += f" This process took {size(memory)} of memory at its peak."
    return Finding(
        examination=_NAME,
        severity="ok",
        found=found,
        numbers={
            "weights bytes": weights,
            "state bytes": state,
            "database bytes at most": stored,
            "written bytes per generation": written,
            "peak memory bytes": memory,
        },
    )


def most_stored_bytes(
    configuration: Configuration, *, weights: int, state: int, n_workers: int
) -> int:
    """Bytes of weights and states that are alive at one time, at most.

    The last finished generation and the one in training; the best so far; of each cohort of
    offspring one that beats everyone; and a checkpoint for each worker: every row where it stands,
    and where it would return to.

    Args:
        configuration: Of the run.
        weights: Bytes of one individual.
        state: Bytes of its optimizer's state that are inherited.
        n_workers: How many are at work.
    """
    n_individuals = configuration.population_size
    n_broods = len(cohorts(configuration, configuration.n_offspring))
    n_winners = configuration.n_evolution_rounds * n_broods
    n_cohorts = len(cohorts(configuration, n_individuals))
    n_in_work = min(n_workers, n_cohorts) * configuration.cohort_size
    points = 2 * (weights + state) + weights * configuration.average_steps  # and the step's mean
    checkpoints = n_in_work * points if configuration.n_epochs > 1 else 0
    return 2 * n_individuals * (weights + state) + (1 + n_winners) * weights + checkpoints


def _state_bytes(patient: Patient) -> int:
    """The largest optimizer state of a founder."""
    states = [state for cohort in patient.cohorts for state in cohort.states if state]
    return max((len(encode(state)[1]) for state in states), default=0)


def peak_memory(device: torch.device) -> int | None:
    """Bytes this process has taken at its peak, on the GPU if it trains there; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return None
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def size(n_bytes: float) -> str:
    """Bytes in a unit that suits them."""
    units = ("bytes", "kB", "MB", "GB", "TB")
    power = min(len(units) - 1, int(math.log10(n_bytes) // 3)) if n_bytes >= 1 else 0
    return f"{n_bytes / 1000**power:.3g} {units[power]}"
