"""All figures of one history, under names that stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go

from optuna_esgd.visualization.backoff_rate import backoff_rate, draw_backoff_rate
from optuna_esgd.visualization.fitness_by_generation import (
    draw_fitness_by_generation,
    fitness_by_generation,
)
from optuna_esgd.visualization.founder_share import draw_founder_share, founder_share
from optuna_esgd.visualization.genealogy import draw_genealogy, genealogy
from optuna_esgd.visualization.history import History
from optuna_esgd.visualization.hyperparameter_schedule import (
    draw_hyperparameter_schedule,
    hyperparameter_schedule,
)
from optuna_esgd.visualization.operator_effect import draw_operator_effect, operator_effect
from optuna_esgd.visualization.population_raster import draw_population_raster, population_raster
from optuna_esgd.visualization.species_share import draw_species_share, species_share
from optuna_esgd.visualization.worker_timeline import draw_worker_timeline, worker_timeline

# Name -> (data step, drawing step), in the order in which a page shows them.
FIGURES: dict[str, tuple[Callable[[History], Any], Callable[[Any], go.Figure]]] = {
    "fitness-by-generation": (fitness_by_generation, draw_fitness_by_generation),
    "population-raster": (population_raster, draw_population_raster),
    "genealogy": (genealogy, draw_genealogy),
    "hyperparameter-schedule": (hyperparameter_schedule, draw_hyperparameter_schedule),
    "founder-share": (founder_share, draw_founder_share),
    "species-share": (species_share, draw_species_share),
    "operator-effect": (operator_effect, draw_operator_effect),
    "backoff-rate": (backoff_rate, draw_backoff_rate),
    "worker-timeline": (worker_timeline, draw_worker_timeline),
}


def draw_all(history: History) -> dict[str, go.Figure]:
    """Draw every figure.

    Where a mark is an individual, its ``customdata`` (or the first entry of it) is the number of
    the trial that shows it, or -1. The worker timeline's marks are no individuals.

    Returns:
        Name -> figure, in the order in which a page shows them. The names are part of the
        interface: lower case, hyphens.
    """
    return {name: draw(collect(history)) for name, (collect, draw) in FIGURES.items()}
