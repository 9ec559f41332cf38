"""``optuna-esgd COMMAND URL ...``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_esgd import __version__
from optuna_esgd.cli.after import add_after_commands
from optuna_esgd.cli.arguments import add_database, add_url, storage_of, store_of
from optuna_esgd.cli.compare import add_compare_command
from optuna_esgd.cli.doctor import add_doctor_command
from optuna_esgd.cli.workers import add_worker_commands
from optuna_esgd.errors import EsgdError
from optuna_esgd.worker.signals import INTERRUPTED

if TYPE_CHECKING:
    import optuna


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status: 0 if all is well, 1 if ``verify`` found a lie or ``doctor`` that the
        guarantee would not hold, 2 for errors, 130 where Ctrl-C ended it.
    """
    parsed = _parser().parse_args(arguments)
    try:
        return _execute(parsed)
    except EsgdError as error:
        print(f"optuna-esgd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # often while torch is imported, which takes seconds
        return INTERRUPTED


def _execute(parsed: argparse.Namespace) -> int:
    import optuna  # noqa: PLC0415

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    status: int = parsed.run(parsed)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optuna-esgd", description="Populations that optuna_esgd has trained."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add_worker_commands(commands)
    add_doctor_command(commands)
    add_compare_command(commands)
    add_after_commands(commands)

    verify = commands.add_parser("verify", help="check all digests, lineages and the guarantee")
    add_database(verify)
    verify.set_defaults(run=_verify)

    export = commands.add_parser("export", help="write weights to a .safetensors file")
    add_database(export)
    export.add_argument("--trial", type=int, help="trial number (default: the best individual)")
    export.add_argument("--output", type=Path, required=True, help="the file to write")
    export.set_defaults(run=_export)

    prune = commands.add_parser("prune", help="delete what deleted studies have left behind")
    add_url(prune, of="the studies")
    prune.set_defaults(run=_prune)

    dashboard = commands.add_parser(
        "dashboard", help="serve optuna-dashboard, and a live page of the population"
    )
    add_url(dashboard, of="the studies")
    dashboard.add_argument("--host", default="127.0.0.1", help="address to bind to (%(default)s)")
    dashboard.add_argument(
        "--port", type=int, default=8080, help="port to listen on (%(default)s); 0: a free one"
    )
    dashboard.add_argument(
        "--write", action="store_true", help="let optuna-dashboard rename, delete and edit studies"
    )
    dashboard.add_argument(
        "--token",
        action="store_true",
        help="ask visitors for a token: the one in the environment variable OPTUNA_ESGD_TOKEN, "
        "or a new one; needed beyond 127.0.0.1",
    )
    dashboard.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which the server is reached, e.g. behind a proxy",
    )
    dashboard.set_defaults(run=_dashboard)

    storage = commands.add_parser("storage", help="the database schema")
    actions = storage.add_subparsers(required=True, metavar="ACTION")
    upgrade = actions.add_parser("upgrade", help="migrate our tables to this version")
    add_url(upgrade, of="the weights")
    upgrade.set_defaults(run=_upgrade)
    return parser


def _load_study(parsed: argparse.Namespace) -> optuna.Study:
    from optuna_esgd.store.storages import load_study  # noqa: PLC0415  (SQLAlchemy when needed)

    return load_study(storage_of(parsed), parsed.study)


def _verify(parsed: argparse.Namespace) -> int:
    from optuna_esgd.store.opening import find_population  # noqa: PLC0415
    from optuna_esgd.store.verification import verify, verify_trials  # noqa: PLC0415

    study = _load_study(parsed)
    population = find_population(study, store=store_of(parsed))
    if population is None:
        print(f"optuna-esgd: study {parsed.study!r} has no population.", file=sys.stderr)
        return 2
    lies = verify(population) + verify_trials(study, population)
    for lie in lies:
        print(lie)
    n_individuals = len(population.individuals())
    if not n_individuals and not lies:
        print("There are no individuals yet, so there is nothing to check.")
        return 0
    print(
        f"{len(lies)} lies in {n_individuals} individuals."
        if lies
        else f"True: {n_individuals} individuals (trained and bred), all digests, lineages, "
        "certificates and trials."
    )
    return 1 if lies else 0


def _export(parsed: argparse.Namespace) -> int:
    from optuna_esgd.trainer.results import export  # noqa: PLC0415  (torch only when needed)

    path = export(_load_study(parsed), parsed.output, trial=parsed.trial, store=store_of(parsed))
    print(path)
    return 0


def _prune(parsed: argparse.Namespace) -> int:
    from optuna_esgd.store.pruning import prune  # noqa: PLC0415
    from optuna_esgd.store.storages import open_storage  # noqa: PLC0415

    n_deleted = prune(open_storage(storage_of(parsed)), store_of(parsed))
    print(f"Deleted {n_deleted} populations whose studies are gone.")
    return 0


def _dashboard(parsed: argparse.Namespace) -> int:
    from optuna_esgd.dashboard import serve  # noqa: PLC0415  (Plotly only when needed)

    serve(
        storage_of(parsed),
        store=store_of(parsed),
        host=parsed.host,
        port=parsed.port,
        is_writable=parsed.write,
        asks_token=parsed.token,
        allowed_hosts=parsed.allow_host,
    )
    return 0


def _upgrade(parsed: argparse.Namespace) -> int:
    from optuna_esgd.store.schema import upgrade_schema  # noqa: PLC0415
    from optuna_esgd.store.storages import check_exists  # noqa: PLC0415

    given = parsed.store or parsed.url or parsed.storage  # before what the environment says
    url = given or store_of(parsed) or storage_of(parsed)
    check_exists(url)
    upgrade_schema(url)
    print("The schema is up to date.")
    return 0
