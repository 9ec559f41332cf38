"""Telling an optimizer's failure from the task's: the one costs an epoch, the other a slot."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Protocol

from optuna_esgd.errors import OptimizerError

_logger = logging.getLogger(__name__)

# What has been shown with its traceback: it is the same every time, and may come every epoch.
_shown: set[tuple[str, str]] = set()


class Source(Protocol):
    """Where an optimizer's evaluations of the loss come from."""

    has_failed: bool


@contextlib.contextmanager
def blamed_on_the_optimizer(source: Source, name: str) -> Iterator[None]:
    """Raise what fails in a block as an ``OptimizerError``, unless the task failed within.

    Args:
        source: Remembers whether an evaluation of the loss raised: that is the user's code, and
            is passed on as it is.
        name: The optimizer's.
    """
    try:
        yield
    except Exception as error:
        if source.has_failed:
            raise
        raise OptimizerError(f"{name} failed in its step: {error!r}") from error


def warn_of_failure(species: str, error: OptimizerError) -> None:
    """Say what becomes of the individual; where in the optimizer it failed, the first time."""
    is_new = (species, str(error)) not in _shown
    _shown.add((species, str(error)))
    _logger.warning(
        "Species %r cannot go on in this epoch, its individual returns to its best weights: %s",
        species,
        error,
        exc_info=error if is_new else None,
    )
