"""What guides an epoch of a supervised task besides its optimizer: schedules, and chosen batches.

An epoch that is trained again (after a crash, after a back-off, by another worker) is the same bit
by bit. A schedule is a function of how many batches have passed in the SGD step, and errors are
measured anew when an epoch begins. Where a schedule remembers something it is in ``Epoch.memory``,
which goes with the optimizer's state: kept, backed off, saved and inherited with it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias, runtime_checkable

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.sampling import OddballSampler
from optuna_esgd.schedules import MomentumAnnealingLR, mutual_information_decay
from optuna_esgd.trainer.task import Epoch

# How the names of what schedules remember begin, among what an epoch remembers.
_MEMORY = "schedule."

Schedule: TypeAlias = Callable[[Optimizer, int], LRScheduler]


class BatchSampler(Protocol):
    """Yields the indices of each batch of one pass, as ``torch.utils.data`` has it."""

    def __iter__(self) -> Iterator[list[int]]:
        """The batches."""
        ...

    def __len__(self) -> int:
        """How many they are."""
        ...


@runtime_checkable
class ErrorDriven(Protocol):
    """A batch sampler that wants to know the errors, as ``OddballSampler`` does."""

    def update(self, indices: list[int], errors: Tensor) -> None:
        """Take the errors examples have now."""
        ...

    def weights(self, indices: list[int]) -> Tensor:
        """What the losses of these examples are multiplied by."""
        ...


@runtime_checkable
class InformedScheduler(Protocol):
    """A scheduler that wants to know what the model answers, as ``MutualInformationLR`` does.

    It is told when an epoch begins, and not stepped by batches.

    Attributes:
        memory: All that it remembers; what it is given in the individual's next epoch.
    """

    memory: dict[str, Tensor]

    def step(self, predictions: Tensor, targets: Tensor) -> None:
        """Set the learning rates.

        Args:
            predictions: What the model answers on the training examples, in evaluation mode.
            targets: What would have been right.
        """
        ...


MakeSampler: TypeAlias = Callable[..., BatchSampler]


def cosine(optimizer: Optimizer, n_steps: int) -> LRScheduler:
    """From the learning rate down to 0 over the SGD step, along half a cosine."""
    return CosineAnnealingLR(optimizer, n_steps)


def momentum_annealing(optimizer: Optimizer, n_steps: int) -> LRScheduler:
    """The individual's momentum for half of the SGD step, then down to 0 over the other half."""
    group = optimizer.param_groups[0]
    momentum = group["momentum"] if "momentum" in group else group.get("betas", (0.0,))[0]
    half = n_steps // 2
    return MomentumAnnealingLR(optimizer, half, n_steps - half, mu_escape=float(momentum))


SCHEDULES: Mapping[str, Schedule] = {
    "cosine": cosine,
    "momentum_annealing": momentum_annealing,
    "mutual_information": mutual_information_decay,
}
SAMPLERS: Mapping[str, MakeSampler] = {
    "oddball": OddballSampler,
    "importance": partial(OddballSampler, importance_weights=True),
}


def resolve_schedule(schedule: Schedule | str | None) -> Schedule | None:
    """Make a schedule of what users write.

    Raises:
        ConfigurationError: An unknown name, or nothing that can be called.
    """
    if isinstance(schedule, str) and schedule in SCHEDULES:
        return SCHEDULES[schedule]
    if schedule is None or callable(schedule):
        return schedule
    raise ConfigurationError(
        f"schedule must be one of {sorted(SCHEDULES)}, or a function of (optimizer, n_steps), got "
        f"{schedule!r}."
    )


def resolve_batches(batches: MakeSampler | str | None) -> MakeSampler | None:
    """Make a function that makes batch samplers of what users write.

    Raises:
        ConfigurationError: An unknown name, or nothing that can be called.
    """
    if isinstance(batches, str) and batches in SAMPLERS:
        return SAMPLERS[batches]
    if batches is None or callable(batches):
        return batches
    raise ConfigurationError(
        f"batches must be one of {sorted(SAMPLERS)}, or a function of (n, batch_size, "
        f"generator=...), got {batches!r}."
    )


def described(made: Callable[..., Any] | None) -> str | None:
    """A function in words that are the same in every run: its name and its fixed arguments."""
    if made is None:
        return None
    if isinstance(made, partial):
        fixed = [*map(repr, made.args), *(f"{k}={v!r}" for k, v in sorted(made.keywords.items()))]
        return f"{described(made.func)}({', '.join(fixed)})"
    return str(getattr(made, "__qualname__", type(made).__qualname__))


@contextlib.contextmanager
def scheduled(
    schedule: Schedule | None,
    optimizer: Optimizer,
    epoch: Epoch,
    n_batches: int,
    measure: Callable[[], tuple[Tensor, Tensor]],
) -> Iterator[Callable[[], None]]:
    """One epoch under a schedule that spans the SGD step.

    The optimizer comes with the values the trial shows, and leaves with them: the schedule starts
    from there in each SGD step, whatever was inherited.

    Args:
        schedule: None for none.
        optimizer: Its groups are changed within the block.
        epoch: Which epoch of the SGD step this is.
        n_batches: In one epoch.
        measure: Predictions and targets of the training examples, for who is to be informed.

    Yields:
        What is to be called after each batch.
    """
    if schedule is None:
        yield lambda: None
        return
    shown = [_settings(group) for group in optimizer.param_groups]
    try:
        scheduler = schedule(optimizer, epoch.n_epochs * n_batches)
        with warnings.catch_warnings():  # it was stepped, by an optimizer of an earlier epoch
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            advance = _take_up(scheduler, epoch, n_batches, measure)
        yield advance
    finally:
        for group, settings in zip(optimizer.param_groups, shown, strict=True):
            for name in _settings(group).keys() - settings.keys():
                del group[name]
            group.update(settings)


def _take_up(
    scheduler: LRScheduler,
    epoch: Epoch,
    n_batches: int,
    measure: Callable[[], tuple[Tensor, Tensor]],
) -> Callable[[], None]:
    """Bring a new scheduler to where the epoch begins; returns what each batch does to it."""
    if isinstance(scheduler, InformedScheduler):
        names = [name for name in epoch.memory if name.startswith(_MEMORY)]
        scheduler.memory = {name.removeprefix(_MEMORY): epoch.memory.pop(name) for name in names}
        scheduler.step(*measure())
        epoch.memory.update({_MEMORY + name: t for name, t in scheduler.memory.items()})
        return lambda: None
    for _ in range(epoch.number * n_batches):
        scheduler.step()
    return scheduler.step


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
