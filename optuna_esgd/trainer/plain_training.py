"""HEADER."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

# >>> Your part: the model and the data (and loss and metric, where they are not filled in yet).


def build_model() -> nn.Module:
    """A freshly initialised model."""
    raise NotImplementedError("Fill in build_model().")


def load_examples() -> tuple[Dataset[Any], Dataset[Any]]:
    """Training and validation examples: two datasets of (input, target)."""
    raise NotImplementedError("Fill in load_examples(), e.g. with two TensorDatasets.")


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """What is trained on: the mean over a batch."""
    raise NotImplementedError("Fill in the loss.")


def metric(outputs: Tensor, targets: Tensor) -> Tensor:
    """What back-off goes by: the mean over a batch."""
    raise NotImplementedError("Fill in the metric.")


# <<< End of your part.


class Step(NamedTuple):
    """One step of the schedule.

    Attributes:
        optimizer: The class.
        settings: What it is called with.
        n_epochs: How long it trains.
        goes_on: Whether it takes over the state (momentum and the like) of the step before.
        dropout: The rate of all dropout layers; None to leave them.
        is_ahead: Whether training begins where that of the step before stood, not at the point it
            returned to.
    """

    optimizer: type[torch.optim.Optimizer]
    settings: dict[str, Any]
    n_epochs: int
    goes_on: bool
    dropout: float | None = None
    is_ahead: bool = False


# SCHEDULE
STEPS: list[Step] = []
BATCH_SIZE = 32
DROP_LAST = False
BACK_OFF = "best"
STEP_EPOCHS = 4
IS_COSINE = False
RATES_FALL = False
AVERAGES = False
AVERAGES_STEPS = False
IS_BFLOAT16 = False
MAXIMIZE = False
SEED = 0
STATE_OF_OPTION: dict[str, str] = {}

# END OF SCHEDULE


def train(device: torch.device) -> nn.Module:
    """Train one network by the schedule."""
    torch.manual_seed(SEED)
    train_set, validation_set = load_examples()
    batches = DataLoader(train_set, BATCH_SIZE, shuffle=True, drop_last=DROP_LAST)
    validation = DataLoader(validation_set, 256)
    model = build_model().to(device)
    optimizer: torch.optim.Optimizer | None = None
    ahead: dict[str, Tensor] = {}
    for number, step in enumerate(STEPS):
        optimizer = prepare(step, model, optimizer)
        ahead = ahead if step.is_ahead else {}
        score, ahead = train_step(step, model, optimizer, batches, validation, ahead)
        name = type(optimizer).__name__
        print(f"step {number}: {name}, validation {-score if MAXIMIZE else score:.6g}")
    return model.eval()


def prepare(
    step: Step, model: nn.Module, before: torch.optim.Optimizer | None
) -> torch.optim.Optimizer:
    """The optimizer of a step with the state it goes on from, and the model's dropout rate."""
    if step.dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = step.dropout
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = step.optimizer(parameters, **step.settings)
    if step.goes_on and before is not None:
        state = before.state_dict()["state"]
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        follow_options(optimizer)
    return optimizer


def follow_options(optimizer: torch.optim.Optimizer) -> None:
    """Start state from zero that an option switched on since then needs; else forget it."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            entries = optimizer.state.get(parameter)
            for option, key in STATE_OF_OPTION.items():
                if not entries or option not in group:
                    continue
                if not group[option]:
                    entries.pop(key, None)
                elif key not in entries:
                    entries[key] = torch.zeros_like(parameter, requires_grad=False)


def train_step(
    step: Step,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: DataLoader[Any],
    validation: DataLoader[Any],
    ahead: dict[str, Tensor],
) -> tuple[float, dict[str, Tensor]]:
    """Train for the step's epochs, backing off.

    Returns:
        The score at its end, lower is better; and how far training has got from there.
    """
    kept_score = evaluate(model, validation)
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    model.load_state_dict({name: t + ahead.get(name, 0) for name, t in kept[0].items()})
    step_mean: dict[str, Tensor] = {}
    first_score = -math.inf
    for epoch in range(step.n_epochs):
        mean = train_epoch(epoch, model, optimizer, batches)
        here = copy.deepcopy(model.state_dict())
        offered = [here, mean] if AVERAGES else [here]
        if AVERAGES_STEPS:
            add_to_mean(step_mean, mean, epoch + 1)
            offered += [dict(step_mean)] if epoch else []
        chosen = None
        for number, weights in enumerate(offered):
            model.load_state_dict(weights)
            score = evaluate(model, validation)
            is_tie = BACK_OFF == "step" and score == kept_score
            if score < kept_score or is_tie or BACK_OFF == "none":
                kept_score, chosen = score, number
                kept = weights, copy.deepcopy(optimizer.state_dict())
        model.load_state_dict(here)
        if epoch + 1 == step.n_epochs or (BACK_OFF == "step" and chosen is None):
            model.load_state_dict(kept[0])
            optimizer.load_state_dict(copy.deepcopy(kept[1]))
        gets_better = AVERAGES_STEPS and (score < first_score if chosen is None else chosen > 0)
        if epoch == 0:
            first_score = score
    trained = [name for name, one in model.named_parameters() if one.requires_grad]
    return kept_score, difference(trained, kept[0], here) if gets_better else {}


def difference(
    names: list[str], before: dict[str, Tensor], after: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What these differ by; nothing if some diverged."""
    found = {
        name: torch.where(after[name] == before[name], 0, after[name] - before[name])
        for name in names
    }
    return found if all(bool(t.isfinite().all()) for t in found.values()) else {}


def train_epoch(
    epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer, batches: DataLoader[Any]
) -> dict[str, Tensor]:
    """One pass over the training examples; the mean of the weights it went through.

    The learning rates leave as they came.
    """
    mean: dict[str, Tensor] = {}
    device = next(model.parameters()).device
    rates = [group["lr"] for group in optimizer.param_groups]
    model.train()
    for number, (inputs, targets) in enumerate(batches):
        factor = 1.0
        if RATES_FALL:  # from epoch to epoch
            factor *= (1 + math.cos(math.pi * epoch / STEP_EPOCHS)) / 2
        if IS_COSINE:  # from batch to batch
            done = (epoch + number / len(batches)) / STEP_EPOCHS
            factor *= (1 + math.cos(math.pi * done)) / 2
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        here = inputs.to(device), targets.to(device)

        def closure(here: tuple[Tensor, Tensor] = here) -> Tensor:
            optimizer.zero_grad()
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=IS_BFLOAT16):
                value = loss(model(here[0]), here[1])
            value.backward()
            return value

        optimizer.step(closure)  # type: ignore[arg-type]
        if AVERAGES:
            add_to_mean(mean, model.state_dict(), number + 1)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return mean


def add_to_mean(mean: dict[str, Tensor], state: dict[str, Tensor], n: int) -> None:
    """Move a mean towards its n-th state; whole numbers and infinities are the latest ones."""
    for name, value in state.items():
        before = mean.get(name, value)
        moved = before.lerp(value, 1 / n) if value.is_floating_point() else value
        mean[name] = torch.where(moved.isfinite(), moved, value).clone()


@torch.no_grad()
def evaluate(model: nn.Module, batches: DataLoader[Any]) -> float:
    """Mean metric over examples, lower is better; infinite if it is none."""
    device = next(model.parameters()).device
    model.eval()
    total, n_examples = 0.0, 0
    for inputs, targets in batches:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=IS_BFLOAT16):
            value = metric(model(inputs.to(device)), targets.to(device))
        total += float(value) * len(targets)
        n_examples += len(targets)
    score = total / n_examples
    return (-score if MAXIMIZE else score) if math.isfinite(score) else math.inf


if __name__ == "__main__":
    trained = train(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if len(sys.argv) > 1:
        torch.save(trained.state_dict(), sys.argv[1])
