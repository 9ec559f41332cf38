"""A worker that is told to stop leaves its SGD step to others, who end at the same bits."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import optuna_esgd as esgd
from optuna_esgd.engine.individual import SlotKey
from optuna_esgd.engine.ports import Population
from optuna_esgd.evolution.back_off import BackOff
from optuna_esgd.trainer import preemption as module
from optuna_esgd.trainer.loop import WorkLoop
from optuna_esgd.trainer.preemption import Preempted, Preemption
from tests.trainer.studies import make_study, make_task

SPECIES = ["SGD", "Adam", "Rprop", "RMSprop"]


class PreemptionAfter(Preemption):
    """Is asked to stop when the n-th epoch ends."""

    def __init__(self, n_epochs: int) -> None:
        super().__init__()
        self._n_left = n_epochs

    def allow(self, may_interrupt: bool, /) -> None:
        if not may_interrupt:
            self._n_left -= 1
            if self._n_left == 0:
                self.is_requested = True
        super().allow(may_interrupt)


def train(
    model: str, stops: list[int], back_off: BackOff = "step", **arguments: Any
) -> list[tuple[Any, ...]]:
    """Two generations; a new worker after each stop. What must not depend on the stops."""
    study = make_study(
        4, n_generations=2, n_epochs=4, back_off=back_off, average_steps=back_off == "best"
    )
    for n_epochs in [*stops, None]:
        trainer = esgd.ESGDTrainer(make_task(model), species=SPECIES, **arguments)
        loop = trainer.open(study)
        loop.preemption = PreemptionAfter(n_epochs) if n_epochs else Preemption()
        with contextlib.nullcontext() if n_epochs is None else contextlib.suppress(Preempted):
            run(loop)
    names = ("weights", "fitness", "birth_fitness", "n_back_offs", "n_epochs", "n_evaluations")
    return [
        (one.reference, *(getattr(one, name) for name in names))
        for one in loop.population.individuals()
    ]


def run(loop: WorkLoop) -> None:
    while loop.act(loop.decide()):
        pass


@pytest.fixture(scope="module")
def undisturbed() -> Callable[..., list[tuple[Any, ...]]]:
    known: dict[str, list[tuple[Any, ...]]] = {}

    def find(model: str, **arguments: Any) -> list[tuple[Any, ...]]:
        key = f"{model} {arguments}"
        if key not in known:
            known[key] = train(model, [], **arguments)
        return known[key]

    return find


@pytest.mark.parametrize("model", ["mlp", "batch-norm", "dropout", "lstm"])
@pytest.mark.parametrize("cohort_size", [2, 4])
def test_interrupted_steps_end_at_the_same_bits(
    model: str, cohort_size: int, undisturbed: Callable[..., list[tuple[Any, ...]]]
) -> None:
    expected = undisturbed(model, cohort_size=cohort_size)
    assert train(model, [1, 2, 3, 1], cohort_size=cohort_size) == expected


@pytest.mark.parametrize("model", ["mlp", "batch-norm"])
def test_so_do_means_and_what_goes_on_from_where_it_stood(
    model: str, undisturbed: Callable[..., list[tuple[Any, ...]]]
) -> None:
    expected = undisturbed(model, back_off="best")
    assert train(model, [1, 2, 3, 1], back_off="best") == expected


@settings(max_examples=5, deadline=None)
@given(stops=st.lists(st.integers(1, 5), max_size=6))
def test_however_often(stops: list[int]) -> None:
    assert train("mlp", stops) == train("mlp", [])


def test_a_batched_checkpoint_can_be_resumed_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker may have no way to batch; to rounding."""
    expected = train("mlp", [])
    study = make_study(4, n_generations=1, n_epochs=4, back_off="step")
    loop = esgd.ESGDTrainer(make_task("mlp"), species=SPECIES).open(study)
    loop.preemption = PreemptionAfter(2)
    with pytest.raises(Preempted):
        run(loop)
    assert loop.population.read_checkpoint(SlotKey(0, 0, 0)) is not None
    monkeypatch.setattr("optuna_esgd.trainer.workshop.why_not_batched", lambda *_: ("no", "no"))
    loop = esgd.ESGDTrainer(make_task("mlp"), species=SPECIES).open(study)
    run(loop)
    founders = loop.population.individuals(generation=0)[:4]
    assert [one.fitness for one in founders] == pytest.approx(
        [row[2] for row in expected[:4]], rel=1e-4
    )


def long_epoch(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[int], None]
) -> tuple[Population, type[BaseException] | None]:
    """Train rows one by one; ``ask`` is called in the middle of every epoch."""
    monkeypatch.setattr(module, "_LONG_EPOCH_SECONDS", 0.0)

    class Slow(type(make_task("mlp"))):  # type: ignore[misc]
        def train_epoch(self, model: Any, optimizer: Any, epoch: esgd.Epoch) -> int | None:
            ask(epoch.number)
            return super().train_epoch(model, optimizer, epoch)

    monkeypatch.setattr("optuna_esgd.trainer.workshop.why_not_batched", lambda *_: ("no", "no"))
    study = make_study(2, n_generations=1, n_epochs=3, n_auditions=1)
    task = make_task("mlp")
    task.__class__ = Slow
    loop = esgd.ESGDTrainer(task, cohort_size=1).open(study)
    raised: type[BaseException] | None = None
    try:
        while loop.act(loop.decide()):
            ask(-1)
    except Preempted as error:
        raised = type(error)
    return loop.population, raised


def test_a_long_epoch_is_interrupted_and_the_last_one_saved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    current = Preemption()
    monkeypatch.setattr("optuna_esgd.trainer.loop.Preemption", lambda: current)

    def ask(number: int) -> None:
        if number == 1:
            current.request()
            pytest.fail("a request in the middle of a long epoch interrupts it")

    population, raised = long_epoch(monkeypatch, ask)
    assert raised is Preempted
    assert population.read_checkpoint(SlotKey(0, 0, 0)) is not None
    assert population.slots()[0].is_claimable
    assert population.slots()[0].n_failures == 0


def test_a_request_from_another_thread_lets_the_epoch_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    current = Preemption()
    monkeypatch.setattr("optuna_esgd.trainer.loop.Preemption", lambda: current)
    begun: list[int] = []

    def ask(number: int) -> None:
        begun.append(number)
        if number == 1:
            thread = threading.Thread(target=current.request, kwargs={"interrupt": False})
            thread.start()
            thread.join()

    population, raised = long_epoch(monkeypatch, ask)
    assert begun == [-1, 0, 1]  # the plan, then epochs
    assert raised is Preempted
    assert population.read_checkpoint(SlotKey(0, 0, 0)) is not None


def test_a_request_before_the_first_epoch_ends_saves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    current = Preemption()
    monkeypatch.setattr("optuna_esgd.trainer.loop.Preemption", lambda: current)

    def ask(number: int) -> None:
        if number == 0:
            current.request()

    population, raised = long_epoch(monkeypatch, ask)
    assert raised is Preempted
    assert population.read_checkpoint(SlotKey(0, 0, 0)) is None
    assert population.slots()[0].is_claimable


def test_checkpoints_are_saved_every_so_often() -> None:
    study = make_study(2, n_generations=1, n_epochs=3)
    loop = esgd.ESGDTrainer(make_task("mlp")).open(study)
    loop.checkpoint_seconds = 0.0
    saved: list[float] = []
    save = loop.population.save_checkpoint

    def save_checkpoint(*arguments: Any, **options: Any) -> bool:
        saved.append(time.monotonic())
        return save(*arguments, **options)

    loop.population.save_checkpoint = save_checkpoint  # type: ignore[method-assign]
    run(loop)
    assert len(saved) == 2  # not after the last epoch: then the slot is finished
    assert loop.population.read_checkpoint(SlotKey(0, 0, 0)) is None


def test_a_preempted_worker_does_not_begin_anything_else() -> None:
    preemption = Preemption()
    preemption.request()
    with pytest.raises(Preempted), preemption.interruptible():
        pytest.fail("the block must not begin")
