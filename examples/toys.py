"""Toys that show in a second what a population is good for, and where greed misleads it.

Each is a Task with a training loop of its own. ``python toys.py deceptive`` runs one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import optuna
import torch
from example_name import example_name
from torch import Tensor, nn

import optuna_esgd as esgd
from optuna_esgd.evolution.space import FloatRange
from optuna_esgd.species import SGD, Species


class Point(nn.Module):
    """A point θ, which is all there is to train."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(start)


class WeightedDescent(torch.optim.Optimizer):
    """Gradient descent that weights the coordinates of a point in the plane by h0 and h1."""

    def __init__(
        self, params: Iterable[Tensor], lr: float = 0.01, h0: float = 1.0, h1: float = 1.0
    ) -> None:
        super().__init__(params, {"lr": lr, "h0": h0, "h1": h1})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """θ ← θ - lr · h ∘ gradient."""
        del closure
        for group in self.param_groups:
            for theta in group["params"]:
                weights = theta.new_tensor([group["h0"], group["h1"]])
                theta.sub_(group["lr"] * weights * theta.grad)


class ToyTask(esgd.Task):
    """A task whose epochs are a few steps long."""

    n_steps = 5

    def point(self, model: nn.Module) -> Tensor:
        (theta,) = model.parameters()
        return theta


class PlaneTask(ToyTask):
    """The toy of the PBT paper: Q = 1.2 - θ0² - θ1², of which one sees the surrogate's gradient.

    The surrogate is 1.2 - h0·θ0² - h1·θ1². With h = (1, 0) or (0, 1) only one coordinate comes
    down: neither alone gets far, both together do (Jaderberg et al. 2017, section 4). The fitness
    is -Q.
    """

    def build_model(self) -> nn.Module:
        return Point(torch.tensor([0.9, 0.9]))

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> int:
        del epoch  # nothing here is random
        theta = self.point(model)
        for _ in range(self.n_steps):
            theta.grad = 2 * theta.detach()
            optimizer.step()
        return self.n_steps

    def fitness(self, model: nn.Module) -> float:
        theta = self.point(model)
        return theta.detach().square().sum().item() - 1.2


class DeceptiveTask(ToyTask):
    """A noisy quadratic where a low learning rate looks better at once, and is worse at the end.

    The definition is ours, after the short-horizon bias of Wu et al. 2018: Q = 1.2 - Σ θi². The
    first coordinate starts at 0.9, has little curvature, and needs a high learning rate for a long
    time. The other fifty start in their minimum, have fifty times its curvature and noisy
    gradients: what they lose grows with the learning rate, and is won back within a few steps as
    soon as it falls. Whoever compares after a few steps keeps the low rates (Dalibard and
    Jaderberg 2021 call PBT greedy for that). The fitness is -Q.
    """

    n_noisy = 50
    curvature = 0.02  # of the first coordinate
    noise = 0.15  # standard deviation of each gradient of the others

    def build_model(self) -> nn.Module:
        start = torch.zeros(1 + self.n_noisy)
        start[0] = 0.9
        return Point(start)

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> int:
        theta = self.point(model)
        generator = epoch.generator()
        for _ in range(self.n_steps):
            theta.grad = theta.detach().clone()
            theta.grad[0] *= self.curvature
            theta.grad[1:] += self.noise * torch.randn(self.n_noisy, generator=generator)
            optimizer.step()
        return self.n_steps

    def fitness(self, model: nn.Module) -> float:
        theta = self.point(model)
        return theta.detach().square().sum().item() - 1.2


class TriangleWaveTask(ToyTask):
    """The toy of Ray Tune's PBT example: the best learning rate rises, then falls again.

    θ is one number, an accuracy that starts at 0. The best rate rises in proportion to it up to
    0.01 at 100, and falls back by 200; it is never below 0.0001. A step whose rate is off by a
    factor q < 3 gains a random share of 1/q, one further off loses a random share of q - 3. The
    fitness is -θ.
    """

    def build_model(self) -> nn.Module:
        return Point(torch.zeros(1))

    def train_epoch(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: esgd.Epoch
    ) -> int:
        theta = self.point(model)
        rate = optimizer.param_groups[0]["lr"]
        generator = epoch.generator()
        for _ in range(self.n_steps):
            accuracy = theta.item()
            best = max(1e-4, 0.01 * (1 - abs(accuracy - 100) / 100))
            off = max(rate, best) / min(rate, best)
            share = torch.rand((), generator=generator).item()
            gain = share / off if off < 3 else -share * (off - 3)
            # The gradient with which plain SGD gets there, and no further down than 0.
            theta.grad = torch.full_like(theta, -max(gain, -accuracy) / rate)
            optimizer.step()
        return self.n_steps

    def fitness(self, model: nn.Module) -> float:
        theta = self.point(model)
        return -theta.item()


def plane(seed: int = 0) -> esgd.Benchmark:
    del seed  # nothing in it is drawn
    weight = FloatRange(0.0, 1.0)
    return _benchmark(
        PlaneTask(),
        Species(WeightedDescent, lr=0.01, h0=weight, h1=weight),
        esgd.Recipe(
            optimizer=WeightedDescent, settings={"h0": 1.0, "h1": 0.0}, schedule="constant"
        ),
        n_generations=10,
    )


def deceptive(seed: int = 0) -> esgd.Benchmark:
    del seed
    return _benchmark(
        DeceptiveTask(),
        SGD(lr=(1e-3, 1.0), momentum=0.0, weight_decay=0.0),
        esgd.Recipe(optimizer=torch.optim.SGD, settings={"lr": 1.0}),
        n_generations=10,
    )


def triangle_wave(seed: int = 0) -> esgd.Benchmark:
    del seed
    return _benchmark(
        TriangleWaveTask(),
        SGD(lr=(1e-4, 2e-2), momentum=0.0, weight_decay=0.0),
        esgd.Recipe(optimizer=torch.optim.SGD, settings={"lr": 5e-3}, schedule="constant"),
        n_generations=40,
    )


def _benchmark(
    task: esgd.Task, species: Species, recipe: esgd.Recipe, n_generations: int
) -> esgd.Benchmark:
    return esgd.Benchmark(
        task=task,
        # The objective is known: there is nothing else to be tested on.
        test=lambda model: {"-Q": task.fitness(model)},
        recipe=recipe,
        species=[species],
        n_generations=n_generations,
    )


BENCHMARKS = {"plane": plane, "deceptive": deceptive, "triangle_wave": triangle_wave}
trainer = plane().trainer()


def main(name: str = "plane") -> dict[str, float]:
    benchmark = BENCHMARKS[name]()
    sampler = esgd.ESGDSampler(benchmark.population_size, n_epochs=benchmark.n_epochs, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(benchmark.trainer(), n_trials=benchmark.n_trials)
    return dict(benchmark.test(esgd.load_best(study, benchmark.task.build_model())))


if __name__ == "__main__":
    for what, value in main(example_name(BENCHMARKS, __doc__)).items():
        print(f"{what} {value:.4f}")
