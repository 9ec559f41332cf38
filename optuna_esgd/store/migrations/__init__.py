"""Schema migrations, run by alembic; ``optuna-esgd storage upgrade`` is the way to run them."""
