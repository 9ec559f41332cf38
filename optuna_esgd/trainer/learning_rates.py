"""Ranges of learning rates proposed by a range test, before a population is made."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import FloatRange, middle
from optuna_esgd.schedules import RangeTest, lr_range_test
from optuna_esgd.species.base import Species
from optuna_esgd.species.registry import SpeciesLike, resolve_species
from optuna_esgd.trainer.seeding import seeded
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import with_gradients

_logger = logging.getLogger(__name__)


@with_gradients
def narrow_learning_rates(
    task: SupervisedTask,
    species: Sequence[SpeciesLike],
    *,
    seed: int = 0,
    n_steps: int = 100,
    smoothing: float = 0.9,
    divergence: float = 4.0,
    device: str | torch.device = "cpu",
) -> tuple[Species, ...]:
    """Narrow each species' range of learning rates to where the loss of a new network falls.

    A range test (``schedules.lr_range_test``) runs through each range from its low to its high
    end, other hyperparameters in the middle of theirs. It costs each species ``n_steps``
    gradients, which no trial is charged with. Deterministic; a study remembers the ranges as any
    others. With workers on unlike machines write down what it proposes: rounding may differ, and a
    worker with other ranges is refused.

    Tested are species that search ``lr`` over real numbers and evaluate the loss once per step.
    The others stay as they are, and so does a range in which no bounds were found.

    Example:
        >>> trainer = esgd.ESGDTrainer(task, species=esgd.narrow_learning_rates(task, ["SGD"]))

    Args:
        task: Whose model, loss and training examples.
        species: As for ``ESGDTrainer``.
        seed: Of the network's initialisation, its dropout, and the order of the examples.
        n_steps: Rates tried, at least 2.
        smoothing: See ``lr_range_test``.
        divergence: See ``lr_range_test``.
        device: Where to train.

    Raises:
        ConfigurationError: No ``SupervisedTask``, no species, or an argument out of range.
    """
    if not isinstance(task, SupervisedTask):
        raise ConfigurationError(
            "The range test needs the loss of mini-batches, which only a SupervisedTask declares, "
            f"got {type(task).__name__}."
        )
    where = torch.device(device)

    def test(one: Species, range_: FloatRange) -> RangeTest:
        with seeded(seed):
            model = task.build_model().to(where).train()
            parameters = [p for p in model.parameters() if p.requires_grad]
            losses = _losses(task, model, where, seed)
            return lr_range_test(
                model,
                one.build(parameters, {name: middle(r) for name, r in one.space.items()}),
                lambda: next(losses),
                lr_low=range_.low,
                lr_high=range_.high,
                n_steps=n_steps,
                smoothing=smoothing,
                divergence=divergence,
            )

    return tuple(_narrow(one, test) for one in resolve_species(species))


def _narrow(one: Species, test: Callable[[Species, FloatRange], RangeTest]) -> Species:
    """One species with the range that the test finds for it, if it can be tested."""
    range_ = one.space.get("lr")
    if not isinstance(range_, FloatRange) or range_.low == range_.high or not _steps_once(one):
        return one
    found = test(one, range_)
    low, high = max(found.lr_min, range_.low), min(found.lr_max, range_.high)
    if low >= high:
        _logger.warning(
            "No learning rate of species %r made the loss fall; they stay within [%g, %g].",
            one.name,
            range_.low,
            range_.high,
        )
        return one
    if range_.start is not None and not low <= range_.start <= high:
        _logger.warning(
            "Founders of species %r do not start at %g, which is outside of [%g, %g].",
            one.name,
            range_.start,
            low,
            high,
        )
    return one.narrowed("lr", low, high)


def _steps_once(one: Species) -> bool:
    """Whether a step is one gradient on one mini-batch, as far as is known beforehand."""
    is_known = one.batched is not None or not one.needs_closure
    return is_known and (one.gradients_per_step, one.forwards_per_step) == (1, 0)


def _losses(
    task: SupervisedTask, model: nn.Module, device: torch.device, seed: int
) -> Iterator[Tensor]:
    """The loss of one mini-batch after the other, pass by pass."""
    for lap in itertools.count():
        for inputs, targets in task.train.batches(device, seed, lap):
            with task.autocast(device):
                yield task.loss(model(inputs), targets)
