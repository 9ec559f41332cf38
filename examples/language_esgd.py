"""The same network, trained as a population by ESGD. Compare with language_plain.py."""

from functools import partial

import optuna
import torch
from example_name import example_name
from language_data import BATCH_SIZE, VARIANTS, cross_entropy, load_examples, perplexity
from torch import nn

import optuna_esgd as esgd


def build(name: str = "lstm", seed: int = 0) -> esgd.Benchmark:
    variant = VARIANTS[name]
    train, validation, test = load_examples(seed)
    task = esgd.SupervisedTask(
        model=variant.build_model,
        loss=cross_entropy,
        train=train,
        validation=validation,
        batch_size=BATCH_SIZE,
    )

    def score_test(model: nn.Module) -> dict[str, float]:
        loss = task.score(model, test, cross_entropy)
        return {"loss": loss, "perplexity": perplexity(loss)}

    return esgd.Benchmark(
        task=task,
        test=score_test,
        recipe=esgd.Recipe(optimizer=torch.optim.Adam, settings=variant.settings),
        population_size=8,
    )


lstm, transformer = (partial(build, name) for name in VARIANTS)
trainer = lstm().trainer()


def main(name: str = "lstm", *, n_generations: int = 6) -> dict[str, float]:
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
