"""The SGD step of a cohort with back-off (Cui et al. 2018, Algorithm 1, first inner loop)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Individual
from optuna_esgd.evolution.back_off import BackOffRule
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.trainer.preemption import Checkpoints
from optuna_esgd.trainer.progress import Progress, describe, resume, resume_mean
from optuna_esgd.trainer.spending import Spending
from optuna_esgd.trainer.step_mean import StepMean, Tensors, ahead_of, go_ahead


class Training(Protocol):
    """A cohort in training: its weights, and the optimizers that change them in place."""

    weights: Matrix

    def train_epoch(self, number: int) -> list[Spending]:
        """Train every row for one epoch; returns what each has cost."""
        ...

    def take_weights(self) -> None:
        """Go on from what somebody else has written into ``weights``."""
        ...

    def iterate_mean(self) -> Matrix | None:
        """The mean of the weights that every row went through in the last epoch, if wanted."""
        ...

    def score(self, weights: Matrix | None = None) -> list[float]:
        """Fitness of every row, lower is better, inf = diverged; or that of other weights."""
        ...

    def keep(self, rows: Sequence[int], weights: Matrix | None = None) -> None:
        """Copy these rows, weights and optimizer state, as the points to return to.

        Args:
            rows: Numbers of rows.
            weights: Where weights are copied from; ``self.weights`` if None.
        """
        ...

    def restore(self, rows: Sequence[int]) -> None:
        """Return these rows to their kept points."""
        ...

    def overwrite(self, weights: Matrix, states: Sequence[Mapping[str, Tensor]]) -> None:
        """Go on from these weights and optimizer states, one per row."""
        ...

    def optimizer_state(self, row: int) -> dict[str, Tensor]:
        """What the row's optimizer would carry on; empty if it has none."""
        ...


def run_sgd_step(
    training: Training,
    individuals: Sequence[Individual],
    configuration: Configuration,
    checkpoints: Checkpoints,
    ahead: Sequence[Tensors] = (),
    *,
    n_epochs: int | None = None,
) -> tuple[list[Progress], dict[int, Tensors]]:
    """Train a cohort for K_s epochs; with back-off nobody ends worse than it was born.

    Args:
        training: The cohort at its birth weights; ends at the kept points.
        individuals: Who is in which row.
        configuration: K_s and the reading of back-off.
        checkpoints: Where the step goes on that another worker began, and is told of progress.
        ahead: By row, how far from its birth weights training begins, see ``trainer.step_mean``;
            nothing for all of them if empty.
        n_epochs: To end after the first so many of the K_s epochs; after all of them if None.

    Returns:
        One record per row; and by row how far training has got from where it ended, of those
        whose next SGD step goes on from there.
    """
    if n_epochs is None:
        n_epochs = configuration.n_epochs
    saved = checkpoints.load()
    mean = StepMean() if configuration.average_steps else None
    if saved is None:
        progress = _score_births(training, individuals)
        rules = [BackOffRule(configuration.back_off, one.birth_fitness) for one in progress]
        training.keep(range(len(progress)))
        if go_ahead(training.weights, ahead):
            training.take_weights()
    else:
        progress = resume(training, saved)
        if mean is not None:
            mean = StepMean(resume_mean(training.weights, saved), progress[0].n_epochs)
        rules = [
            BackOffRule(configuration.back_off, one.fitness, one.n_back_offs) for one in progress
        ]
    for number in range(progress[0].n_epochs, n_epochs):
        spent = training.train_epoch(number)
        is_last = number + 1 == n_epochs
        for row, one in enumerate(progress):
            one.n_gradients += spent[row].n_gradients
            one.n_forwards += spent[row].n_forwards
            one.n_epochs += 1
        stood = training.weights.clone() if is_last and mean is not None else None
        if rules[0].is_scored(is_last_epoch=is_last):
            going_on = _back_off(training, progress, rules, mean, is_last=is_last)
        if not is_last:
            checkpoints.epoch_done(
                lambda: describe(training, progress, None if mean is None else mean.weights)
            )
    return progress, {} if stood is None else ahead_of(training.weights, stood, going_on)


def _back_off(
    training: Training,
    progress: Sequence[Progress],
    rules: Sequence[BackOffRule],
    step_mean: StepMean | None,
    *,
    is_last: bool,
) -> list[int]:
    """Score every row where it stands, and its means if there are any; return those that have to.

    Returns:
        Who was returned to a point behind its training, and has a training to go on with.
    """
    mean = training.iterate_mean()
    longer = None if mean is None or step_mean is None else step_mean.add(mean)
    means = [one for one in (mean, longer) if one is not None]
    scores = [training.score(), *(training.score(one) for one in means)]
    kept: list[list[int]] = [[] for _ in scores]
    restored, going_on = [], []
    for row, (one, *fitness) in enumerate(zip(progress, *scores, strict=True)):
        number = rules[row].keep_fittest(*fitness)
        if number is not None:
            kept[number].append(row)
        # Who keeps its mean trains on from where it stands, and ends at the mean.
        is_at_mean = number is not None and number > 0 and is_last
        if rules[row].must_restore(kept=number is not None, is_last_epoch=is_last) or is_at_mean:
            restored.append(row)
            if is_at_mean or one.gets_better(fitness[-1]):
                going_on.append(row)
        if len(means) == 1:
            one.first_mean = fitness[-1]
        one.n_evaluations += len(fitness)
        one.fitness, one.n_back_offs = rules[row].kept_fitness, rules[row].n_back_offs
    training.keep(kept[0])
    for rows, one in zip(kept[1:], means, strict=True):
        training.keep(rows, one)
    training.restore(restored)
    return going_on


def _score_births(training: Training, individuals: Sequence[Individual]) -> list[Progress]:
    """Take birth fitness from the plan; founders have none yet and are scored here."""
    if all(one.birth_fitness is not None for one in individuals):
        return [Progress(float(one.birth_fitness or 0.0)) for one in individuals]
    return [Progress(fitness, n_evaluations=1) for fitness in training.score()]
