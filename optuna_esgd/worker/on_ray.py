"""``optuna-esgd run --ray``: the same workers as actors on a Ray cluster.

Ray places them, starts them again when their node dies, and brings what they log; the work, and
who does what, is the database's business as ever.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from rich.console import Console

from optuna_esgd.errors import ConfigurationError, EsgdError, WorkerError
from optuna_esgd.store.storages import check_exists
from optuna_esgd.trainer.faces import find_sampler
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.preemption import Preemption
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
from optuna_esgd.worker.run import INTERRUPTED, count_cohorts
from optuna_esgd.worker.signals import stopping_on_signals
from optuna_esgd.worker.work import work

_POLL_SECONDS = 0.2
# Who has not answered by then is on no node, and has no work to save.
_ANSWER_SECONDS = 10.0


class RayWorker:
    """One worker, as an actor; two of its methods run at a time, each in a thread of its own.

    Args:
        workplace: What is trained, and where; its file lies in the folder that Ray has brought.
        checkpoint_seconds: See ``work``.
    """

    def __init__(self, workplace: Workplace, checkpoint_seconds: float) -> None:
        self._workplace = workplace
        self._checkpoint_seconds = checkpoint_seconds
        self._preemption = Preemption()

    def work(self) -> bool:
        """Work until all generations are done.

        Returns:
            False if it was asked to stop before that.

        Raises:
            EsgdError: Something is wrong with the trainer, the study or the database.
        """
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        for url in (self._workplace.storage, self._workplace.store):
            if url is not None:
                check_exists(url)  # a machine that has come later must not make a file of its own
        trainer, study = open_workplace(self._workplace)
        return work(
            trainer,
            study,
            checkpoint_seconds=self._checkpoint_seconds,
            preemption=self._preemption,
        )

    def stop(self) -> None:
        """Ask it to save its work and end; called while it works."""
        self._preemption.request(interrupt=False)


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
        elsewhere, loop, share = _prepare(workplace, request, nodes)
        console.log(_describe(share, nodes))
        with (
            stopping_on_signals(lambda _n_signals: None) as signals,
            PopulationProgress(loop, console) as progress,
            _Crew(ray, share, elsewhere, checkpoint_seconds) as crew,
        ):
            while crew.is_at_work() and len(signals) < 2:
                progress.update()
                if signals:
                    crew.stop()
    return INTERRUPTED if signals else 0


def _prepare(
    workplace: Workplace, request: Request, nodes: Sequence[Node]
) -> tuple[Workplace, WorkLoop, Share]:
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
    return elsewhere, loop, share(count_cohorts(loop))


def _describe(share: Share, nodes: Sequence[Node]) -> str:
    text = (
        f"{share.n_workers} workers on Ray, each with {share.cpus_each} cores and "
        f"{share.gpus_each:g} GPUs"
    )
    room = count_room(nodes, share.cpus_each, share.gpus_each)
    return text + (f"; there is room for {room} now" if room < share.n_workers else "")


class _Crew(contextlib.AbstractContextManager["_Crew"]):
    """The actors; whoever leaves the block ends those that are left."""

    def __init__(
        self, ray: Any, share: Share, workplace: Workplace, checkpoint_seconds: float
    ) -> None:
        # Ray starts actors again for ever, and what they were doing: work goes on by itself.
        actor = ray.remote(
            num_cpus=share.cpus_each,
            num_gpus=share.gpus_each,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=2,
            scheduling_strategy="SPREAD",
        )(RayWorker)
        self._ray = ray
        self._actors = [
            actor.remote(workplace, checkpoint_seconds) for _ in range(share.n_workers)
        ]
        self._at_work = {one.work.remote(): one for one in self._actors}
        self._answers: dict[Any, Any] = {}
        self._asked_at = math.inf

    def is_at_work(self) -> bool:
        """Wait a moment for workers to end; whether some have not.

        Raises:
            EsgdError: A worker raised it.
            WorkerError: A worker raised anything else, or Ray cannot start it.
        """
        if self._at_work:
            ended, _ = self._ray.wait(
                list(self._at_work), num_returns=len(self._at_work), timeout=_POLL_SECONDS
            )
            for call in ended:
                del self._at_work[call]
                if self._result(call):
                    self.stop()  # all is done; some may never have found room
        if time.monotonic() > self._asked_at + _ANSWER_SECONDS:
            self._give_up_the_silent()
        return bool(self._at_work)

    def stop(self) -> None:
        """Ask all of them, once, to save their work and end."""
        if math.isinf(self._asked_at):
            self._asked_at = time.monotonic()
            self._answers = {call: one.stop.remote() for call, one in self._at_work.items()}

    def __exit__(self, *_: object) -> None:
        for one in self._actors:
            self._ray.kill(one)

    def _result(self, call: Any) -> bool:
        try:
            is_done: bool = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, EsgdError):
                raise error.cause from None
            raise WorkerError(f"A worker failed:\n{error}") from None
        except self._ray.exceptions.RayError as error:
            raise WorkerError(f"Ray cannot keep a worker going: {error}") from None
        return is_done

    def _give_up_the_silent(self) -> None:
        answers = list(self._answers.values())
        answered, _ = self._ray.wait(answers, num_returns=len(answers), timeout=0)
        for call, answer in self._answers.items():
            if answer not in answered:
                self._at_work.pop(call, None)
        self._asked_at = math.inf


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
