"""Who descends from whom, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import optuna

from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.errors import WeightsNotFoundError
from optuna_esgd.store.opening import open_results
from optuna_esgd.trainer.task import shown_value

if TYPE_CHECKING:
    import pandas as pd


def lineage(study: optuna.Study, *, store: str | None = None) -> pd.DataFrame:
    """All finished individuals, offspring included, one per row.

    Columns: generation, round (0 trained, v bred in the v-th evolution round), number, trial,
    birth, parents (text references ``generation.round.number``), species, value_at_birth, value,
    back_offs, epochs, gradients and forwards (evaluations of the loss on a mini-batch, with and
    without gradients), evaluations (of the fitness), weights (digest), stored, worker, and one
    column per hyperparameter named ``params_...``.

    Raises:
        StudyError: The study has no population.
        ImportError: pandas is not installed (``pip install optuna_esgd[pandas]``).
    """
    try:
        import pandas as pd  # noqa: PLC0415  (optional)
    except ImportError:
        raise ImportError("lineage needs pandas: pip install 'optuna_esgd[pandas]'.") from None

    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    everyone = open_results(study, store).individuals()
    return pd.DataFrame(
        [_row(_as_shown(one, maximize=maximize)) for one in everyone if one.fitness is not None]
    )


def ancestry(
    study: optuna.Study, reference: Reference | None = None, *, store: str | None = None
) -> list[Individual]:
    """The main line of an individual (the best if None): first parents back to a founder.

    Returns:
        The founder first, the individual last; offspring and the births they became are one step.
        Their fitness is in the study's direction.
    """
    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    population = open_results(study, store)
    everyone = {one.reference: one for one in population.individuals()}
    if reference is None:
        best = population.best()
        if best is None:
            raise WeightsNotFoundError("No individual has finished yet; train at least one trial.")
        reference = best.reference
    line = [everyone[reference]]
    while (parent := line[-1].first_parent) is not None:
        line.append(everyone[parent])
    return [_as_shown(one, maximize=maximize) for one in reversed(line)]


def _as_shown(individual: Individual, *, maximize: bool) -> Individual:
    def show(value: float | None) -> float | None:
        return None if value is None else shown_value(value, maximize=maximize)

    return replace(
        individual,
        fitness=show(individual.fitness),
        birth_fitness=show(individual.birth_fitness),
    )


def certificate(study: optuna.Study, *, store: str | None = None) -> dict[int, tuple[float, ...]]:
    """Mean value of the r best survivors, r = 1 .. m, per generation.

    It never gets worse (Cui et al. 2018, Theorem 1), except with ``back_off="none"``. The same
    numbers can be read with SQL from ``esgd_plan``. In an asynchronous run they are of those who
    held the places when the first of them went on to the next generation; a generation that began
    before every founder had finished has none.
    """
    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    stored: Mapping[int, tuple[float, ...]] = open_results(study, store).certificates()
    return {
        generation - 1: tuple(shown_value(mean, maximize=maximize) for mean in means)
        for generation, means in sorted(stored.items())
    }


def _row(one: Individual) -> dict[str, Any]:
    return {
        "generation": one.reference.generation,
        "round": one.reference.round,
        "number": one.reference.number,
        "trial": one.trial_number,
        "birth": one.birth,
        "parents": " ".join(str(parent) for parent in one.parents),
        "species": one.species,
        "value_at_birth": one.birth_fitness,
        "value": one.fitness,
        "back_offs": one.n_back_offs,
        "epochs": one.n_epochs,
        "gradients": one.n_gradients,
        "forwards": one.n_forwards,
        "evaluations": one.n_evaluations,
        "weights": one.weights,
        "stored": one.is_stored,
        "worker": one.worker,
        **{f"params_{name}": value for name, value in one.hyperparameters.items()},
    }
