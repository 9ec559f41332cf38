"""The same network, trained as a population by ESGD. Compare with speech_plain.py."""

from functools import partial

import optuna
import torch
from example_name import example_name
from speech_data import VARIANTS, error_rate
from torch import nn

import optuna_esgd as esgd


def build(name: str = "dnn", seed: int = 0) -> esgd.Benchmark:
    variant = VARIANTS[name]
    train, validation, test = variant.load_examples(seed)
    loss = nn.functional.cross_entropy
    task = esgd.SupervisedTask(
        model=variant.build_model,
        loss=loss,
        train=train,
        validation=validation,
        batch_size=variant.batch_size,
    )
    return esgd.Benchmark(
        task=task,
        test=esgd.HeldOut(task, test, {"loss": loss, "error": error_rate}),
        recipe=esgd.Recipe(optimizer=torch.optim.Adam, settings=variant.settings),
    )


dnn, lstm = (partial(build, name) for name in VARIANTS)
trainer = dnn().trainer()


def main(name: str = "dnn", *, n_generations: int = 6) -> dict[str, float]:
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
