"""Imported once by the server that forks workers: everything a run loads is loaded already."""

from __future__ import annotations

import tempfile

from optuna_esgd.store.engines import close_databases
from tests.faults.small_run import result, run

with tempfile.TemporaryDirectory() as _folder:
    _study = run(f"sqlite:///{_folder}/warm.db")
    result(_study)
    _study._storage.remove_session()
    close_databases()
    del _study
