"""``optuna-esgd run --ray``: the same workers as actors on a Ray cluster.

Ray places them, starts them again when their node dies, and brings what they log; the work, and
who does what, is the database's business as ever.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from rich.console import Console

from optuna_esgd.engine.actions import Stop
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.faces import find_sampler
from optuna_esgd.worker.cluster import (
    Node,
    Request,
    Share,
    count_room,
    reachable_by_all,
    share_out,
)
from optuna_esgd.worker.loading import Workplace, open_workplace
from optuna_esgd.worker.luggage import name_on_nodes, pack_luggage
from optuna_esgd.worker.progress import PopulationProgress
from optuna_esgd.worker.ray_crew import Crew
from optuna_esgd.worker.run import count_cohorts, end_here
from optuna_esgd.worker.signals import INTERRUPTED, stopping_on_signals

_KNOCK_SECONDS = 10.0


def run_on_ray(
    workplace: Workplace, request: Request, *, address: str | None, checkpoint_seconds: float
) -> int:
    """Train until all generations are done, with workers on a Ray cluster.

    The folder of the trainer's file travels to the nodes, and so does this package; what both
    need must be installed there. Ctrl-C (and SIGTERM) lets the workers end their epoch, save it
    and end; a second one ends them at once.

    Args:
        workplace: What is trained, and where.
        request: How many workers, and what each of them needs.
        address: Of the cluster; None for the one this machine is part of, or a new one here.
        checkpoint_seconds: See ``work``.

    Returns:
        The exit status: 0 when all is done, 130 when interrupted.

    Raises:
        ConfigurationError: Ray is not installed, the cluster cannot be reached or has no room, or
            its machines cannot share the database.
        EsgdError: Something is wrong with the trainer, the study or the database.
        WorkerError: A worker failed in a way that will not pass.
    """
    ray = _import_ray()
    console = Console(stderr=True, log_path=False)
    with _connected(ray, address, pack_luggage(workplace)):
        nodes = _find_nodes(ray)
        trainer, study, elsewhere, share = _prepare(workplace, request, nodes)
        loop = trainer.open(study)
        if isinstance(loop.decide(), Stop):
            return end_here(trainer, study, checkpoint_seconds=checkpoint_seconds, console=console)
        console.log(_describe(share, nodes))
        with (
            stopping_on_signals(lambda _n_signals: None) as signals,
            PopulationProgress(loop, console) as progress,
            Crew(ray, share, elsewhere, checkpoint_seconds) as crew,
        ):
            while crew.is_at_work() and len(signals) < 2:
                progress.update()
                if signals and not crew.is_stopping:
                    console.log("The workers end their epoch and save it; or ask once more.")
                    crew.stop()
    return INTERRUPTED if signals else 0


def _prepare(
    workplace: Workplace, request: Request, nodes: Sequence[Node]
) -> tuple[ESGDTrainer, optuna.Study, Workplace, Share]:
    """Open the population; the workplace as it is on the nodes, and how these are shared out."""
    machines = {node.machine for node in nodes}
    storage = reachable_by_all(workplace.storage, machines)
    # Nothing is trained here, and this machine may have no GPU.
    here = replace(workplace, storage=storage, device="cpu")
    trainer, study = open_workplace(here)
    if trainer.store is not None:
        trainer.store = reachable_by_all(trainer.store, machines)

    def share(most: int) -> Share:
        return share_out(nodes, request, device=workplace.device, most=most)

    expected = share(find_sampler(study).settings.population_size)
    trainer.expected_workers = expected.n_workers
    loop = trainer.open(study)
    elsewhere = replace(
        workplace,
        trainer=name_on_nodes(workplace.trainer),
        storage=storage,
        store=trainer.store,
    )
    return trainer, study, elsewhere, share(count_cohorts(loop))


def _describe(share: Share, nodes: Sequence[Node]) -> str:
    text = (
        f"{share.n_workers} workers on Ray; cores of each: {share.cpus_each}, "
        f"GPUs: {share.gpus_each:g}"
    )
    room = count_room(nodes, share.cpus_each, share.gpus_each)
    return text + (f"; there is room for {room} now" if room < share.n_workers else "")


def _import_ray() -> Any:
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigurationError(
            f"Ray is not installed ({error}): pip install 'optuna_esgd[ray]', here and on the "
            "nodes of the cluster."
        ) from None
    return ray


@contextlib.contextmanager
def _connected(ray: Any, address: str | None, luggage: Mapping[str, Any]) -> Iterator[None]:
    if address is not None:
        _check_address(address)
    try:
        ray.init(address=address, runtime_env=dict(luggage), logging_level=logging.WARNING)
    except (OSError, ImportError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigurationError(
            f"Ray cannot be started, or reached at {address or 'its default address'}: {error}"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Knock, if it is one of HOST:PORT: where nobody answers, Ray tries for minutes.

    Raises:
        ConfigurationError: Nobody answers.
    """
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"Nobody answers at {address}: {error}. Give the address of the cluster's head, as "
            "`ray start --head` has shown it."
        ) from None


def _find_nodes(ray: Any) -> list[Node]:
    return [
        Node(
            machine=node["NodeManagerHostname"],
            n_cpus=int(node["Resources"].get("CPU", 0)),
            n_gpus=int(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
