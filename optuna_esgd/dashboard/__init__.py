"""Dashboard: optuna-dashboard and a live page of the population, served by one process.

The *live page* shows a study's population as it trains; optuna-dashboard, unmodified, shows its
trials. Both stand behind a *guard*, which says who may ask for what. Nothing here is needed for
training, and training needs nothing from here: the database lies in between.
"""

from optuna_esgd.dashboard.application import make_application
from optuna_esgd.dashboard.guard import Guard, Policy, choose_policy
from optuna_esgd.dashboard.server import serve

__all__ = ["Guard", "Policy", "choose_policy", "make_application", "serve"]
