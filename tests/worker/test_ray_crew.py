"""What is made of the ways in which actors end, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions
from ray.exceptions import ActorDiedError, RayTaskError

from optuna_esgd.errors import StorageError, WorkerError
from optuna_esgd.worker import ray_crew
from optuna_esgd.worker.cluster import Share
from optuna_esgd.worker.loading import Workplace
from optuna_esgd.worker.ray_crew import Crew

WORKPLACE = Workplace(trainer="train.py:trainer", storage="sqlite:///esgd.db", study="s")
NEVER = object()


class FakeActor:
    """Ends as it is told to; one that never ends does so once it is asked, if it hears it."""

    def __init__(self, end: Any, *, is_placed: bool = True) -> None:
        self.end, self.is_placed = end, is_placed
        self.n_asked = 0
        self.work = SimpleNamespace(remote=lambda: (self, "work"))
        self.stop = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._stop))

    def _stop(self) -> tuple[FakeActor, str]:
        self.n_asked += 1
        if self.is_placed and self.end is NEVER:
            self.end = False
        return self, "stop"


class FakeRay:
    """As much of Ray as a crew uses."""

    exceptions = ray.exceptions

    def __init__(self, actors: Sequence[FakeActor]) -> None:
        self._actors = list(actors)
        self.killed: list[FakeActor] = []

    def remote(self, **options: Any) -> Any:
        self.options = options
        return lambda _kind: SimpleNamespace(remote=lambda *_: self._actors.pop(0))

    def wait(self, calls: Sequence[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return [
            (actor, name)
            for actor, name in calls
            if actor.is_placed and (name == "stop" or actor.end is not NEVER)
        ], []

    def get(self, call: Any) -> Any:
        if isinstance(call[0].end, Exception):
            raise call[0].end
        return call[0].end

    def kill(self, actor: FakeActor) -> None:
        self.killed.append(actor)


def crew_of(*actors: FakeActor) -> tuple[Crew, FakeRay]:
    fake = FakeRay(actors)
    share = Share(n_workers=len(actors), cpus_each=3, gpus_each=0.5)
    return Crew(fake, share, WORKPLACE, 300.0), fake


def test_ray_is_told_what_a_worker_needs_and_to_start_it_again() -> None:
    _, fake = crew_of(FakeActor(NEVER))
    assert (fake.options["num_cpus"], fake.options["num_gpus"]) == (3, 0.5)
    assert (fake.options["max_restarts"], fake.options["max_task_retries"]) == (-1, -1)


def test_when_one_finds_all_done_the_others_are_asked_to_stop() -> None:
    actors = [FakeActor(NEVER), FakeActor(True), FakeActor(NEVER)]
    crew, fake = crew_of(*actors)
    with crew:
        while crew.is_at_work():
            pass
    assert [one.n_asked for one in actors] == [1, 0, 1]
    assert fake.killed == actors


def test_who_has_no_room_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    placed, waiting = FakeActor(NEVER), FakeActor(NEVER, is_placed=False)
    crew, _ = crew_of(placed, waiting)
    assert crew.is_at_work()
    crew.stop()
    crew.stop()
    assert placed.n_asked == waiting.n_asked == 1
    assert crew.is_at_work()  # it may only be slow to answer
    monkeypatch.setattr(ray_crew, "_ANSWER_SECONDS", 0.0)
    crew, _ = crew_of(FakeActor(NEVER), FakeActor(NEVER, is_placed=False))
    crew.stop()
    assert not crew.is_at_work()


def test_who_has_answered_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its epoch may be a long one."""
    monkeypatch.setattr(ray_crew, "_ANSWER_SECONDS", 0.0)
    busy = FakeActor(NEVER)
    crew, _ = crew_of(busy)
    crew.stop()
    busy.end = NEVER
    assert crew.is_at_work()
    assert crew.is_at_work()
    busy.end = False
    assert not crew.is_at_work()


def test_errors_of_workers_come_as_they_were() -> None:
    cause = StorageError("the server is gone")
    crew, fake = crew_of(FakeActor(RayTaskError("work", "remote lines", cause)))
    with pytest.raises(StorageError, match=r"^the server is gone$"), crew:
        crew.is_at_work()
    assert len(fake.killed) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RayTaskError("work", "remote lines", KeyError("x")), r"(?s)failed.*remote lines"),
        (ActorDiedError(), "Ray cannot keep a worker going"),
    ],
)
def test_other_errors_are_the_workers(error: Exception, message: str) -> None:
    crew, _ = crew_of(FakeActor(error))
    with pytest.raises(WorkerError, match=message):
        crew.is_at_work()
