"""The workers of a run on Ray: actors, and who waits for them."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from typing import Any

import optuna

from optuna_esgd.errors import EsgdError, WorkerError
from optuna_esgd.store.storages import check_exists
from optuna_esgd.trainer.preemption import Preemption
from optuna_esgd.worker.cluster import Share
from optuna_esgd.worker.loading import Workplace, open_workplace
from optuna_esgd.worker.work import work

_POLL_SECONDS = 0.2
# Who has not answered by then is on no node, and has no work to save.
_ANSWER_SECONDS = 10.0


class RayWorker:
    """One worker, as an actor; its methods run in threads of their own.

    When a connection breaks, Ray may call ``work`` again while it still works here: the second
    call waits for the first, and finds nothing left to do.

    Args:
        workplace: What is trained, and where; its file lies in the folder that Ray has brought.
        checkpoint_seconds: See ``work``.
    """

    def __init__(self, workplace: Workplace, checkpoint_seconds: float) -> None:
        self._workplace = workplace
        self._checkpoint_seconds = checkpoint_seconds
        self._preemption = Preemption()
        self._working = threading.Lock()

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
        with self._working:
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


class Crew(contextlib.AbstractContextManager["Crew"]):
    """The actors of a run; whoever leaves the block ends those that are left.

    Args:
        ray: The module, connected to a cluster.
        share: How many, and what each of them needs.
        workplace: As it is on the nodes.
        checkpoint_seconds: See ``work``.

    Attributes:
        is_stopping: Whether they have been asked to stop.
    """

    def __init__(
        self, ray: Any, share: Share, workplace: Workplace, checkpoint_seconds: float
    ) -> None:
        # Ray starts actors again for ever, and what they were doing: work goes on by itself.
        actor = ray.remote(
            num_cpus=share.cpus_each,
            num_gpus=share.gpus_each,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=3,  # work, work once more, stop
            scheduling_strategy="SPREAD",
        )(RayWorker)
        self._ray = ray
        self._actors = [
            actor.remote(workplace, checkpoint_seconds) for _ in range(share.n_workers)
        ]
        self._at_work = {one.work.remote(): one for one in self._actors}
        self._answers: dict[Any, Any] = {}
        self.is_stopping = False
        self._answers_due = math.inf

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
        if time.monotonic() >= self._answers_due:
            self._give_up_the_silent()
        return bool(self._at_work)

    def stop(self) -> None:
        """Ask all of them, once, to save their work and end."""
        if self.is_stopping:
            return
        self.is_stopping = True
        self._answers_due = time.monotonic() + _ANSWER_SECONDS
        self._answers = {
            call: one.stop.options(max_task_retries=0).remote()
            for call, one in self._at_work.items()
        }

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
        self._answers_due = math.inf
        for call in list(self._at_work):
            answered, _ = self._ray.wait([self._answers[call]], timeout=0)
            if not answered:
                del self._at_work[call]
