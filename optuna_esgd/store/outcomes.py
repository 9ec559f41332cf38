"""What both stores do alike with layouts, outcomes, and the question who is best."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from optuna_esgd.engine.individual import Claim, Individual, Reference
from optuna_esgd.engine.snapshot import Outcome
from optuna_esgd.errors import ConfigurationError, WeightsNotFoundError


def readable(text: str) -> str:
    """Text that every database can store: no NUL, no half characters."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def check_outcomes(claim: Claim, outcomes: Sequence[Outcome]) -> None:
    """Refuse outcomes that are not those of the claimed slot, one each.

    Raises:
        ConfigurationError: Names the numbers expected and those that came.
    """
    expected = sorted(claim.slot.numbers)
    came = sorted(outcome.number for outcome in outcomes)
    if came != expected:
        raise ConfigurationError(
            f"{claim.slot.key} must be finished with one outcome for each of its individuals "
            f"{expected}, got outcomes for {came}."
        )


def best_of(everyone: Iterable[Individual]) -> Individual | None:
    """The stored individual with the lowest fitness; see ``Population.best``."""
    stored = (one for one in everyone if one.is_stored)
    return min(stored, key=_fitness_then_age, default=None)


def weights_not_found(reference: Reference, individual: Individual | None) -> WeightsNotFoundError:
    """The error for weights that cannot be read: unknown, not yet stored, or collected."""
    if individual is None:
        return WeightsNotFoundError(f"There is no individual {reference} in this population.")
    if individual.weights is None:
        reason = "it has none yet" if individual.fitness is None else "none were stored for it"
        return WeightsNotFoundError(f"No weights of individual {reference}: {reason}.")
    return WeightsNotFoundError(
        f"The weights of individual {reference} were collected: nothing needed them any more. "
        "Pin the trials whose weights you want to keep."
    )


def check_layout(stored: str, given: str) -> None:
    """Refuse a model whose tensors are not those the population was made with.

    Args:
        stored: Canonical JSON of names, shapes and dtypes.
        given: Likewise.

    Raises:
        ConfigurationError: Says which tensor differs.
    """
    if stored == given:
        return
    raise ConfigurationError(
        f"The study holds weights of another model: {_first_difference(stored, given)}. Build "
        "the model the study was made with, or use another study_name."
    )


def _first_difference(stored: str, given: str) -> str:
    old, new = _tensors(stored), _tensors(given)
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in new:
            return f"tensor {name!r} ({old[name]}) of the study is not in this model"
        if name not in old:
            return f"tensor {name!r} ({new[name]}) of this model is not in the study"
        if old[name] != new[name]:
            return f"tensor {name!r} is {old[name]} in the study and {new[name]} in this model"
    return "the order of the tensors, or which of them are tied, differs"


def _tensors(layout: str) -> dict[str, str]:
    """Tensor name -> the rest of its entry, in order; whatever else the JSON has is left out."""
    try:
        content: Any = json.loads(layout)
    except ValueError:
        return {}
    if isinstance(content, dict):
        content = content.get("tensors", content)
    if isinstance(content, dict):
        return {name: json.dumps(entry, sort_keys=True) for name, entry in content.items()}
    return {str(name): " ".join(map(str, rest)) for name, *rest in content}


def _fitness_then_age(one: Individual) -> tuple[float, Reference]:
    return (one.fitness_or_inf, one.reference)
