"""``python -m optuna_esgd.cli`` is ``optuna-esgd``."""

import sys

from optuna_esgd.cli.main import main

sys.exit(main())
