"""One worker: claims, trains, scores offspring, commits plans, and shows what is finished."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Iterator
from functools import partial

import optuna

from optuna_esgd.engine.actions import Stop, Train
from optuna_esgd.errors import EsgdError, WorkerError
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.faces import find_sampler
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.preemption import Preempted, Preemption
from optuna_esgd.trainer.task import shown_value
from optuna_esgd.trainer.user_code import in_words, place_of
from optuna_esgd.worker.signals import stopping_on_signals

_logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0


def work(
    trainer: ESGDTrainer,
    study: optuna.Study,
    *,
    checkpoint_seconds: float,
    preemption: Preemption,
) -> bool:
    """Work until all generations are done.

    Slots are claimed first and trials made for what is finished, so no trial exists while this
    worker waits. User code that raises costs its slot a try; but as long as nobody has trained
    anything, it is taken for wrong and ends the worker.

    Args:
        trainer: What is trained.
        study: Where.
        checkpoint_seconds: Between two checkpoints of one SGD step; infinity for only the last,
            when asked to stop.
        preemption: Asks to stop.

    Returns:
        False if it was asked to stop before all was done.

    Raises:
        WorkerError: User code raised before anybody was trained.
        EsgdError: The study cannot be trained with this trainer.
    """
    loop = trainer.open(study)
    loop.preemption, loop.checkpoint_seconds = preemption, checkpoint_seconds
    loop.counts_first_failures = False
    with _sparing_the_collector():
        with loop.working_ahead():
            is_done = _work(trainer, study, loop)
        if is_done:
            _show_the_rest(trainer, study, loop)
    return is_done


def _work(trainer: ESGDTrainer, study: optuna.Study, loop: WorkLoop) -> bool:
    looked_at = time.monotonic()
    while not loop.preemption.is_requested:
        action = loop.decide()
        if isinstance(action, Stop):
            return True
        try:
            loop.act(action)
        except Preempted:
            break
        except EsgdError:
            raise
        except Exception as error:
            _logger.exception("Work on a slot failed; it is given back.")
            if not loop.is_anybody_trained():
                raise _end_with(error) from error
            # The slot counts it, and after max_tries births stand: go on with the next.
        if isinstance(action, Train):
            loop.later(partial(trainer.show_finished, study))
        if time.monotonic() > looked_at + loop.configuration.lease_seconds:
            looked_at = time.monotonic()
            _fail_lost_trials(study, loop)
    return False


def _end_with(error: Exception) -> WorkerError:
    return WorkerError(
        f"{place_of(error)} raised {in_words(error)}\nNobody has been trained in this study so "
        "far, so the worker does not try again. Nothing is lost: mend it, and the same command "
        "trains."
    )


@contextlib.contextmanager
def _sparing_the_collector() -> Iterator[None]:
    """Keep Python's garbage collector from looking again and again at what was there before.

    That is all of torch and Optuna, and takes it a tenth of a second each time.
    """
    is_frozen = gc.get_freeze_count() > 0  # by somebody who knows why
    if not is_frozen:
        gc.freeze()
    try:
        yield
    finally:
        if not is_frozen:
            gc.unfreeze()


def _fail_lost_trials(study: optuna.Study, loop: WorkLoop) -> int:
    running = find_sampler(study).running_trials
    return running.fail_lost(
        study, loop.population, lease_seconds=loop.configuration.lease_seconds
    )


def _show_the_rest(trainer: ESGDTrainer, study: optuna.Study, loop: WorkLoop) -> None:
    """All is trained; what dead workers were about to show is shown here, one lease later."""
    deadline = time.monotonic() + 2 * loop.configuration.lease_seconds
    while True:
        n_running = _fail_lost_trials(study, loop)
        trainer.show_finished(study)
        if not n_running or loop.preemption.is_requested or time.monotonic() > deadline:
            return
        time.sleep(_LOOK_SECONDS)


def describe_end(loop: WorkLoop) -> str:
    """What has come of a run that is done."""
    configuration, best = loop.configuration, loop.population.best()
    done = f"All {configuration.n_generations} generations are done"
    if best is None:
        return f"{done}."
    value = shown_value(best.fitness_or_inf, maximize=configuration.maximize)
    return f"{done}. The best fitness is {value:.6g}."


def work_until_stopped(
    trainer: ESGDTrainer, study: optuna.Study, *, checkpoint_seconds: float
) -> int:
    """Work, and stop cleanly when told to.

    Args:
        trainer: What is trained.
        study: Where.
        checkpoint_seconds: See ``work``.

    Returns:
        The exit status: 0 when all is done; 128 plus the signal's number when it was told to
        stop, so that schedulers start it again.

    Raises:
        EsgdError: Something is wrong with the trainer, the study or the database.
    """
    preemption = Preemption()

    def stop(n_signals: int) -> None:
        if n_signals > 1:
            raise KeyboardInterrupt
        preemption.request()

    with stopping_on_signals(stop) as signals:
        is_done = work(
            trainer, study, checkpoint_seconds=checkpoint_seconds, preemption=preemption
        )
    if is_done or not signals:
        _logger.info("%s", describe_end(trainer.open(study)))
        return 0
    _logger.info("Stopped. Nothing is lost: whoever comes next goes on, or the same command.")
    return 128 + signals[0]
