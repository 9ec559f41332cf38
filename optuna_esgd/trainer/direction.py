"""Whether a study goes the way that a task's fitness gets better."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

import optuna
from optuna.study import StudyDirection

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.trainer.supervised import SupervisedTask, name_of
from optuna_esgd.trainer.task import Task

_logger = logging.getLogger(__name__)

# Words in a metric's name, by which most metrics say what they are.
_BETTER_HIGH = frozenset({"acc", "accuracy", "auc", "auroc", "f1", "iou", "recall"})
_BETTER_LOW = frozenset({"entropy", "error", "loss", "mae", "mse", "nll", "perplexity", "rmse"})
# Words that turn a metric round.
_TURNED = frozenset({"inverse", "neg", "negated", "negative"})
# Between the words of MSELoss and of BinaryAccuracy.
_NEW_WORD = r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])"


def check_direction(directions: Sequence[StudyDirection], task: Task) -> None:
    """Refuse a study that maximises a loss.

    Raises:
        ConfigurationError: See above, or the study has several objectives.
    """
    if len(directions) != 1:
        raise ConfigurationError(
            f"ESGD evolves one fitness, but the study has {len(directions)} directions."
        )
    maximizes = directions[0] == StudyDirection.MAXIMIZE
    if isinstance(task, SupervisedTask) and task.metric is None and maximizes:
        raise ConfigurationError(
            "The study maximises, but the task has no metric and its loss must be minimised. "
            "Give SupervisedTask(metric=...), or create the study with direction='minimize'."
        )


def warn_of_direction(study: optuna.Study, task: Task) -> None:
    """Warn of a study that seems to go the wrong way, by the name of the task's metric."""
    if not (isinstance(task, SupervisedTask) and task.metric is not None):
        return
    maximizes = study.direction == StudyDirection.MAXIMIZE
    name = name_of(task.metric)
    better_high = is_better_high(name)
    if better_high is not None and better_high != maximizes:
        now, then = ("maximises", "minimize") if maximizes else ("minimises", "maximize")
        _logger.warning(
            "The study %s %s. If that is the wrong way, create another one with direction=%r "
            "(on the command line: --direction %s).",
            now,
            name,
            then,
            then,
        )


def is_better_high(name: str) -> bool | None:
    """Whether a metric is better the higher it is, by its name; None if that does not say."""
    words = set(re.findall(r"[a-z0-9]+", re.sub(_NEW_WORD, " ", name).lower()))
    if words & _TURNED:
        return None
    if words & _BETTER_LOW:  # "accuracy_loss" too
        return False
    return True if words & _BETTER_HIGH else None
