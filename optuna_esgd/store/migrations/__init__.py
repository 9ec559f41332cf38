"""Schema migrations, run by alembic; ``upgrade_schema`` is the way to run them."""

from optuna_esgd.store.schema import upgrade_schema as upgrade_schema
