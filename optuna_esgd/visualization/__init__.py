"""Visualization: the population of a study as Plotly figures.

``plot_x(study)`` draws one figure, in the conventions of ``optuna.visualization``. For all of
them at once read the study once: ``draw_all(read_history(study))``. ``publish(study)`` saves
some of them where optuna-dashboard shows them.
"""

from optuna_esgd.visualization.backoff_rate import plot_backoff_rate
from optuna_esgd.visualization.figures import draw_all
from optuna_esgd.visualization.fitness_by_generation import plot_fitness_by_generation
from optuna_esgd.visualization.founder_share import plot_founder_share
from optuna_esgd.visualization.genealogy import plot_genealogy
from optuna_esgd.visualization.history import History, read_history
from optuna_esgd.visualization.hyperparameter_schedule import plot_hyperparameter_schedule
from optuna_esgd.visualization.key_numbers import KeyNumbers, key_numbers
from optuna_esgd.visualization.operator_effect import plot_operator_effect
from optuna_esgd.visualization.population_raster import plot_population_raster
from optuna_esgd.visualization.publishing import publish
from optuna_esgd.visualization.species_share import plot_species_share
from optuna_esgd.visualization.worker_timeline import plot_worker_timeline

__all__ = [
    "History",
    "KeyNumbers",
    "draw_all",
    "key_numbers",
    "plot_backoff_rate",
    "plot_fitness_by_generation",
    "plot_founder_share",
    "plot_genealogy",
    "plot_hyperparameter_schedule",
    "plot_operator_effect",
    "plot_population_raster",
    "plot_species_share",
    "plot_worker_timeline",
    "publish",
    "read_history",
]
