"""The toys behave as is said of them: reference numbers, and the order of methods."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import pytest
import torch
import toys
from torch import nn

import optuna_esgd as esgd

N_STEPS = 200
Rates = Callable[[int], float]


def epoch(number: int, *, individual: int = 0, seed: int = 0) -> esgd.Epoch:
    return esgd.Epoch(
        generation=0,
        individual=individual,
        number=number,
        seed=seed * 1_000_000 + number * 1_000 + individual,
    )


class OneStep(toys.PlaneTask):
    n_steps = 1


def run_plane(*, exploit: bool, sigma: float = 0.0, seed: int = 0) -> float:
    """Q after 200 steps of two workers that take turns, and compare before every fifth step.

    Who is worse takes θ and, where h is explored, h from the other. Everybody then explores h by
    Gaussian noise. When to compare and how to explore are our reading of the paper, chosen because
    it meets the reference numbers.
    """
    task = OneStep()
    generator = np.random.default_rng(seed)
    workers = [task.build_model() for _ in range(2)]
    optimizers = [
        toys.WeightedDescent(model.parameters(), h0=1.0 - number, h1=float(number))
        for number, model in enumerate(workers)
    ]
    for step in range(1, N_STEPS + 1):
        for mine, other in ((0, 1), (1, 0)):
            group = optimizers[mine].param_groups[0]
            if exploit and step % 5 == 0:
                if task.fitness(workers[other]) < task.fitness(workers[mine]) - 1e-6:
                    workers[mine].load_state_dict(workers[other].state_dict())
                    if sigma > 0:
                        theirs = optimizers[other].param_groups[0]
                        group.update(h0=theirs["h0"], h1=theirs["h1"])
                for name in ("h0", "h1"):
                    group[name] += sigma * generator.standard_normal()
            task.train_epoch(workers[mine], optimizers[mine], epoch(step))
    return -min(task.fitness(model) for model in workers)


def test_grid_search_of_the_plane_ends_at_the_reference() -> None:
    assert run_plane(exploit=False) == pytest.approx(0.3897, abs=5e-5)


def test_exploitation_alone_ends_at_the_reference() -> None:
    assert run_plane(exploit=True) == pytest.approx(1.1822, abs=5e-5)


@pytest.mark.slow
def test_the_median_of_pbt_is_near_the_reference() -> None:
    """The reference is 1.190 over 1000 seeds; explored as above we find 1.1885 over 1000.

    The paper does not say how h is explored, so the rule is our reading: the agreement is no
    confirmation of it. The median of 200 seeds has a standard deviation of 0.002; three of them
    still tell it from exploitation alone.
    """
    found = [run_plane(exploit=True, sigma=0.1, seed=seed) for seed in range(200)]
    assert statistics.median(found) == pytest.approx(1.1885, abs=0.006)


@pytest.mark.slow
def test_esgd_crosses_the_plane() -> None:
    assert toys.main("plane")["-Q"] < -1.19


def run_deceptive(rate: Rates, seed: int) -> float:
    """Q after 40 epochs of one individual."""
    task = toys.DeceptiveTask()
    model = task.build_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for number in range(40):
        optimizer.param_groups[0]["lr"] = rate(number)
        task.train_epoch(model, optimizer, epoch(number, seed=seed))
    return -task.fitness(model)


def run_greedy(seed: int, *, every: int | None) -> float:
    """Q of the best of 16 that start at random rates; PBT with truncation every few epochs."""
    task = toys.DeceptiveTask()
    generator = np.random.default_rng(seed)
    rates = 10 ** generator.uniform(-3, 0, 16)
    models: list[nn.Module] = [task.build_model() for _ in rates]
    optimizers = [torch.optim.SGD(model.parameters(), lr=1.0) for model in models]
    for number in range(40):
        for index, model in enumerate(models):
            optimizers[index].param_groups[0]["lr"] = rates[index]
            here = epoch(number, individual=index, seed=seed)
            task.train_epoch(model, optimizers[index], here)
        if every is not None and (number + 1) % every == 0 and number < 39:
            order = np.argsort([task.fitness(model) for model in models])
            for worse in order[-4:]:
                better = generator.choice(order[:4])
                models[worse].load_state_dict(models[better].state_dict())
                rates[worse] = np.clip(rates[better] * generator.choice([0.8, 1.25]), 1e-3, 1.0)
    return -min(task.fitness(model) for model in models)


@pytest.mark.slow
def test_greed_is_worse_than_nothing_on_the_deceptive_toy() -> None:
    seeds = range(2)
    greedy = statistics.mean(run_greedy(seed, every=1) for seed in seeds)
    apart = statistics.mean(run_greedy(seed, every=None) for seed in seeds)
    cosine = statistics.mean(
        run_deceptive(lambda number: (1 + np.cos(np.pi * number / 40)) / 2, seed) for seed in seeds
    )
    assert greedy + 0.1 < apart
    assert apart + 0.1 < cosine


def test_a_low_rate_looks_better_on_the_deceptive_toy_at_once() -> None:
    task = toys.DeceptiveTask()
    found = {}
    for rate in (0.02, 1.0):
        model = task.build_model()
        task.train_epoch(model, torch.optim.SGD(model.parameters(), lr=rate), epoch(0))
        found[rate] = task.fitness(model)
    assert found[0.02] < found[1.0]


@pytest.mark.parametrize(("accuracy", "best"), [(50.0, 0.005), (100.0, 0.01), (150.0, 0.005)])
def test_the_wave_rewards_the_rate_that_is_best_where_one_is(accuracy: float, best: float) -> None:
    task = toys.TriangleWaveTask()
    gained = {}
    for factor in (1.0, 2.0, 2.9, 4.0, 0.25):
        model = task.build_model()
        nn.init.constant_(task.point(model), accuracy)
        optimizer = torch.optim.SGD(model.parameters(), lr=best * factor)
        assert task.train_epoch(model, optimizer, epoch(0)) == 5
        gained[factor] = -task.fitness(model) - accuracy
    assert gained[1.0] > gained[2.0] > gained[2.9] > 0
    assert gained[4.0] < 0
    assert gained[0.25] < 0


@pytest.mark.parametrize("name", toys.BENCHMARKS)
def test_every_toy_knows_its_objective(name: str) -> None:
    benchmark = toys.BENCHMARKS[name]()
    model = benchmark.task.build_model()
    optimizer, schedule = benchmark.recipe.prepare(model, 2)
    for number in range(2):
        benchmark.task.train_epoch(model, optimizer, epoch(number))
        schedule.step()
    assert benchmark.test(model) == {"-Q": benchmark.task.fitness(model)}
