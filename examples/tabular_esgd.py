"""The same network, trained as a population by ESGD. Compare with tabular_plain.py."""

from functools import partial

import optuna
import torch
from example_name import example_name
from tabular_data import BATCH_SIZE, VARIANTS, load_examples

import optuna_esgd as esgd


def build(name: str = "diabetes", seed: int = 0) -> esgd.Benchmark:
    variant = VARIANTS[name]
    train, validation, test = load_examples(name, seed)
    task = esgd.SupervisedTask(
        model=variant.build_model,
        loss=variant.loss,
        train=train,
        validation=validation,
        batch_size=BATCH_SIZE,
    )
    return esgd.Benchmark(
        task=task,
        test=esgd.HeldOut(task, test),
        recipe=esgd.Recipe(optimizer=torch.optim.Adam, settings=variant.settings),
    )


diabetes, breast_cancer, wine = (partial(build, name) for name in VARIANTS)
trainer = diabetes().trainer()


def main(name: str = "diabetes", *, n_generations: int = 6) -> dict[str, float]:
    benchmark = build(name)
    sampler = esgd.ESGDSampler(benchmark.population_size, n_epochs=benchmark.n_epochs, seed=0)
    study = optuna.create_study(sampler=sampler)
    study.optimize(benchmark.trainer(), n_trials=benchmark.population_size * n_generations)
    model = esgd.load_best(study, benchmark.task.build_model())
    scores = {"validation loss": benchmark.task.fitness(model.eval())}
    return scores | {f"test {name}": value for name, value in benchmark.test(model).items()}


if __name__ == "__main__":
    for what, value in main(example_name(VARIANTS, __doc__)).items():
        print(f"{what} {value:.4f}")
