"""Studies to serve."""

from __future__ import annotations

from wsgiref.types import WSGIApplication

import optuna

import optuna_esgd as esgd
from optuna_esgd.dashboard import Policy, make_application
from tests.trainer.studies import make_study, make_task

# Everything that HTML, an address, a path, a template or a header could take for its own.
NASTY = "<script>alert(1)</script> \"'&$study /../%2e%2e?#\\ü"


def train(url: str, *, name: str = "s", n_trials: int = 12) -> optuna.Study:
    """A population of four, three generations of it unless said otherwise."""
    study = make_study(storage=esgd.create_storage(url), name=name)
    study.optimize(esgd.ESGDTrainer(make_task()), n_trials=n_trials)
    return study


def serve_directly(url: str, *, is_writable: bool = False) -> WSGIApplication:
    """The application without a server around it."""
    return make_application(url, policy=Policy(is_writable=is_writable))
