"""How well, and how fast, the sampler evolves hyperparameters without weights.

``python -m tests.sampler.benchmark`` prints the median best value of each problem after 200
trials; ``--trials 600 --seeds 6`` another budget; ``--cost`` milliseconds per trial, in memory, in
a study that has 10⁴ trials already.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import Trial

from optuna_esgd import ESGDSampler
from tests.sampler.studies import SUITE, Objective, run

Make = Callable[[int], BaseSampler]
SAMPLERS: dict[str, Make] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "NSGA-II": lambda seed: NSGAIISampler(seed=seed),
    "NSGA-II, 16": lambda seed: NSGAIISampler(population_size=16, seed=seed),
    "TPE": lambda seed: TPESampler(seed=seed),
    "ESGD": lambda seed: ESGDSampler(seed=seed),
    "ESGD, 8": lambda seed: ESGDSampler(8, seed=seed),
}


def shifted_sphere(trial: Trial) -> float:
    optimum = (3.7, -2.1, 1.3) * 3 + (3.7,)
    return sum((trial.suggest_float(f"x{i}", -5, 5) - x) ** 2 for i, x in enumerate(optimum))


def corner(trial: Trial) -> float:
    return sum((trial.suggest_float(f"x{i}", -5, 5) - x) ** 2 for i, x in enumerate((5, -5, 5)))


def ackley(trial: Trial) -> float:
    x = np.array([trial.suggest_float(f"x{i}", -10, 20) for i in range(6)]) - 1.1
    waves = np.exp(np.cos(2 * np.pi * x).mean())
    return float(20 + np.e - 20 * np.exp(-0.2 * np.sqrt((x**2).mean())) - waves)


def rastrigin(trial: Trial) -> float:
    x = np.array([trial.suggest_float(f"x{i}", -5.12, 5.12) for i in range(4)]) - 0.7
    return float(40 + (x**2 - 10 * np.cos(2 * np.pi * x)).sum())


def integers(trial: Trial) -> float:
    return sum((trial.suggest_int(f"n{i}", 0, 20) - (3 + 2 * i)) ** 2 for i in range(6))


def categories(trial: Trial) -> float:
    chosen = [trial.suggest_categorical(f"c{i}", list("abcd")) for i in range(8)]
    wrong = sum(2.0 for i, one in enumerate(chosen) if one != "abcd"[i % 4])
    return wrong + abs(trial.suggest_float("z", 0, 1, step=0.05) - 0.35)


PROBLEMS: dict[str, Objective] = SUITE | {
    one.__name__: one for one in (shifted_sphere, corner, ackley, rastrigin, integers, categories)
}


def compare(n_trials: int, n_seeds: int) -> None:
    print(f"{'':16}" + "".join(f"{label:>13}" for label in SAMPLERS))
    logs: dict[str, list[float]] = {label: [] for label in SAMPLERS}
    for name, objective in PROBLEMS.items():
        line = f"{name:16}"
        for label, make in SAMPLERS.items():
            best = [run(make(seed), objective, n_trials).best_value for seed in range(n_seeds)]
            logs[label].append(float(np.mean([math.log10(one + 1e-3) for one in best])))
            line += f"{np.median(best):13.3g}"
        print(line, flush=True)
    print(f"{'mean log10':16}" + "".join(f"{np.mean(one):13.2f}" for one in logs.values()))


def cost(n_parameters: int, n_before: int = 10_000) -> None:
    names = [f"x{i}" for i in range(n_parameters)]
    distributions = {name: FloatDistribution(-1, 1) for name in names}
    for label in ("random", "NSGA-II", "ESGD"):
        study = optuna.create_study(sampler=SAMPLERS[label](0))
        for _ in range(n_before):
            params = {name: random.uniform(-1, 1) for name in names}
            value = sum(x**2 for x in params.values())
            study.add_trial(
                optuna.create_trial(params=params, distributions=distributions, value=value)
            )
        times = []
        for _ in range(6):
            start = time.perf_counter()
            study.optimize(
                lambda trial: sum(trial.suggest_float(name, -1, 1) ** 2 for name in names),
                n_trials=200,
            )
            times.append((time.perf_counter() - start) * 5)
        print(f"{label:9} {n_parameters} parameters: {min(times):.3f} ms per trial")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--cost", action="store_true")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if arguments.cost:
        cost(1)
        cost(5)
    else:
        compare(arguments.trials, arguments.seeds)


if __name__ == "__main__":
    main()
