"""Several members of the last population as one model: soups (their mean) and ensembles.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
accuracy without increasing inference time": the uniform and the greedy recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral
from typing import Any, Literal, NamedTuple

import optuna
import torch
from torch import Tensor, nn
from torch.nn import functional

from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.ports import Population
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.store.opening import open_results
from optuna_esgd.trainer.results import (
    find_best,
    last_population,
    load_weights,
    read_tensors,
)
from optuna_esgd.trainer.supervised import SupervisedTask
from optuna_esgd.trainer.task import Task, check_fitness, shown_value

Outputs = Literal["logits", "log_probabilities", "binary_logits", "values"]

# What a model's outputs are, by the loss it is trained on; with all other losses, values.
_OUTPUTS: Mapping[Any, Outputs] = {
    functional.cross_entropy: "logits",
    nn.CrossEntropyLoss: "logits",
    functional.nll_loss: "log_probabilities",
    nn.NLLLoss: "log_probabilities",
    functional.binary_cross_entropy_with_logits: "binary_logits",
    nn.BCEWithLogitsLoss: "binary_logits",
}


class Combined(NamedTuple):
    """A model made from several individuals.

    Attributes:
        model: On the CPU, in evaluation mode. That of a soup is one network of the task's kind.
        value: Its fitness, in the study's direction.
        n_members: How many individuals are in it.
    """

    model: nn.Module
    value: float
    n_members: int


def uniform_soup(study: optuna.Study, task: Task, *, store: str | None = None) -> Combined:
    """Average all members of the last population, whether it helps or not.

    Running statistics (batch-norm) of an average are re-estimated on training data.
    """
    kitchen = Kitchen(study, task, store)
    soup = kitchen.read(kitchen.members[0])
    for n_members, member in enumerate(kitchen.members[1:], start=1):
        soup = _average(soup, n_members, kitchen.read(member))
    return kitchen.serve(soup, len(kitchen.members))


def greedy_soup(study: optuna.Study, task: Task, *, store: str | None = None) -> Combined:
    """Average members of the last population one by one, from the best on, while it helps.

    It begins with the best individual, and so is never worse than that on validation data.
    """
    kitchen = Kitchen(study, task, store)
    first, *others = kitchen.from_the_best
    soup = kitchen.read(first)
    served = kitchen.serve(soup, 1)
    for member in others:
        candidate = _average(soup, served.n_members, kitchen.read(member))
        tasted = kitchen.serve(candidate, served.n_members + 1)
        if kitchen.is_as_good(tasted, served):
            soup, served = candidate, tasted
    return served


def ensemble(
    study: optuna.Study,
    task: Task,
    *,
    n_members: int | None = None,
    outputs: Outputs | None = None,
    store: str | None = None,
) -> Combined:
    """All (or the ``n_members`` best) of the last population, whose answers are averaged.

    Probabilities are averaged where outputs mean some, and the result is given in the form of the
    members' outputs, so that the task's loss and metric can take it.

    Args:
        study: A study trained by ESGD.
        task: What it was trained on.
        n_members: How many; all if None.
        outputs: What the model's outputs are: ``"logits"`` of classes along dimension 1,
            ``"log_probabilities"`` of them, ``"binary_logits"``, or ``"values"``, which are
            averaged as they are. None for what torch's own loss functions and modules expect,
            and values with any other loss.
        store: Where weights are, if not in the study's database.

    Raises:
        ConfigurationError: ``n_members`` is not a number of members, or see ``Ensemble``.
    """
    if n_members is not None and not _is_count(n_members):
        raise ConfigurationError(
            f"n_members must be a whole number >= 1, or None for all, got {n_members!r}."
        )
    kitchen = Kitchen(study, task, store)
    members = kitchen.members[:n_members]
    models = [load_weights(task.build_model(), kitchen.read(member)) for member in members]
    kind = outputs_of(task) if outputs is None else outputs
    return kitchen.score(Ensemble(models, kind), len(models))


def _is_count(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool) and int(number) >= 1


class Ensemble(nn.Module):
    """Several models as one: the mean of their answers.

    Args:
        models: Whose outputs are averaged.
        outputs: What these are, see ``ensemble``.

    Raises:
        ConfigurationError: There is no such kind of output.
    """

    def __init__(self, models: Sequence[nn.Module], outputs: Outputs = "values") -> None:
        super().__init__()
        if outputs not in _MEANS:
            raise ConfigurationError(f"outputs must be one of {sorted(_MEANS)}, got {outputs!r}.")
        self.members = nn.ModuleList(models)
        self._mean = _MEANS[outputs]

    def forward(self, *inputs: Tensor) -> Tensor:
        """The mean over the members."""
        return self._mean(torch.stack([member(*inputs) for member in self.members]))


def _mean_of_log_probabilities(outputs: Tensor) -> Tensor:
    return outputs.logsumexp(0) - math.log(len(outputs))


def _mean_of_logits(outputs: Tensor) -> Tensor:
    """Log-probabilities are logits, too."""
    return _mean_of_log_probabilities(outputs.log_softmax(2 if outputs.dim() > 2 else 1))


def _mean_of_binary_logits(outputs: Tensor) -> Tensor:
    """log(p / (1 - p)) with p the mean of the probabilities."""
    for_one, for_zero = functional.logsigmoid(outputs), functional.logsigmoid(-outputs)
    return for_one.logsumexp(0) - for_zero.logsumexp(0)


def _mean_of_values(outputs: Tensor) -> Tensor:
    return outputs.mean(0)


_MEANS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "logits": _mean_of_logits,
    "log_probabilities": _mean_of_log_probabilities,
    "binary_logits": _mean_of_binary_logits,
    "values": _mean_of_values,
}


def outputs_of(task: Task) -> Outputs:
    """What a task's models put out, by its loss."""
    loss: Any = task.loss if isinstance(task, SupervisedTask) else None
    while isinstance(loss, partial):
        loss = loss.func
    kind = type(loss) if isinstance(loss, nn.Module) else loss
    return _OUTPUTS.get(kind, "values")


class Kitchen:
    """The last population of a study, and how what is made of it scores.

    Attributes:
        members: Who is left, best first.
        from_the_best: The same after the best individual of the run, who may be an offspring
            that nobody has trained yet.

    Raises:
        ConfigurationError: ``task`` is none.
        WeightsNotFoundError: No generation is complete yet.
    """

    def __init__(self, study: optuna.Study, task: Task, store: str | None) -> None:
        if not isinstance(task, Task):
            raise ConfigurationError(
                f"task must be the Task the study was trained on, got {type(task).__name__}."
            )
        self._task = task
        self._population: Population = open_results(study, store)
        self._maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
        self.members = last_population(self._population)
        best = find_best(self._population)
        others = [one for one in self.members if one.reference != best.reference]
        self.from_the_best = [best, *others]

    def read(self, member: Individual) -> dict[str, Tensor]:
        """Somebody's state dict."""
        return read_tensors(self._population, member.reference)

    def serve(self, tensors: Mapping[str, Tensor], n_members: int) -> Combined:
        """A model with these weights; with statistics of its own if they are an average."""
        model = load_weights(self._task.build_model(), tensors)
        if n_members > 1:
            self._task.calibrate(model)
        return self.score(model, n_members)

    def score(self, model: nn.Module, n_members: int) -> Combined:
        """The model with its fitness."""
        with torch.no_grad():
            fitness = check_fitness(self._task.fitness(model.eval()), maximize=self._maximize)
        return Combined(model, shown_value(fitness, maximize=self._maximize), n_members)

    def is_as_good(self, one: Combined, other: Combined) -> bool:
        """Whether one is no worse than the other."""
        return one.value >= other.value if self._maximize else one.value <= other.value


def _average(
    soup: Mapping[str, Tensor], n_members: int, member: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Mix one more member into a mean of n; integer tensors stay those of the first."""
    return {
        name: (tensor * n_members + member[name]) / (n_members + 1)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in soup.items()
    }
