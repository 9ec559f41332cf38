"""Oddball sampling: batches drawn by error, with and without importance weights.

Drawing by error changes what is minimised, and importance weights change it back. First on the
smallest problem there is, the location of {0, 0, 0, 1} under squared loss; then on handwritten
digits of which one class is rare, in populations that differ in nothing else.
"""

from __future__ import annotations

import math

import optuna
import torch
from digits_data import Examples, build_mlp, error_rate, load_examples
from figure_file import figure_path, write_lines
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.sampling import OddballSampler

RARE, KEPT = 8, 6
POPULATION, GENERATIONS = 4, 6
N_SEEDS = 4  # of splits and populations: one of them says little


def locate(*, importance_weights: bool) -> list[float]:
    """Where the estimate is after each of 1500 batches of 64."""
    generator = torch.Generator().manual_seed(0)
    sampler = OddballSampler(
        4, 64, floor=1e-9, importance_weights=importance_weights, generator=generator
    )
    targets = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    x, course = 0.5, []
    for _ in range(1500):
        sampler.update([0, 1, 2, 3], x - targets)
        indices = next(iter(sampler))
        x -= 0.05 * float((sampler.weights(indices) * (x - targets[indices])).mean())
        course.append(x)
    return course


def train(batches: str | None, seed: int) -> tuple[float, float]:
    """Validation loss, and the error on the rare class, of the best of a population."""
    examples, validation, _ = load_examples(seed)
    train = make_rare(examples)
    loss = nn.functional.cross_entropy
    task = esgd.SupervisedTask(
        model=build_mlp, loss=loss, train=train, validation=validation, batches=batches
    )
    study = optuna.create_study(sampler=esgd.ESGDSampler(POPULATION, n_epochs=4, seed=seed))
    study.optimize(esgd.ESGDTrainer(task), n_trials=POPULATION * GENERATIONS)
    model = esgd.load_best(study, build_mlp())
    is_rare = validation[1] == RARE
    rare = validation[0][is_rare], validation[1][is_rare]
    return task.score(model, validation, loss), task.score(model, rare, error_rate)


def make_rare(examples: Examples) -> Examples:
    """Leave a few examples of one class only."""
    inputs, targets = examples
    place = (targets == RARE).cumsum(0)
    kept = (targets != RARE) | (place <= KEPT)
    return inputs[kept], targets[kept]


def main() -> None:
    """Locate, train three populations, report, draw."""
    path = figure_path("oddball_sampling.html", __doc__)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    courses = {
        "by error": locate(importance_weights=False),
        "by error, importance weights": locate(importance_weights=True),
    }
    odd, weighed = (sum(course[-1000:]) / 1000 for course in courses.values())
    print(f"location: {odd:.4f} by error (in theory {1 / (1 + math.sqrt(3)):.4f})")
    print(f"location: {weighed:.4f} with importance weights (in theory 0.2500)")
    for name, batches in {
        "evenly": None,
        "by error": "oddball",
        "importance": "importance",
    }.items():
        scores = torch.tensor([train(batches, seed) for seed in range(N_SEEDS)])
        loss, error = scores.mean(0).tolist()
        print(f"digits, {name}: validation loss {loss:.3f}, error on the rare class {error:.1%}")
    write_lines(path, courses, title="The location of {0, 0, 0, 1}", x="batch", y="estimate")


if __name__ == "__main__":
    main()
