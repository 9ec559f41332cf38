"""The same network, trained as a population by ESGD. Compare with digits_plain.py."""

import optuna
from digits_data import build_model, error_rate, load_examples
from torch import nn

import optuna_esgd as esgd

train, validation, test = load_examples()
cross_entropy = nn.functional.cross_entropy
task = esgd.SupervisedTask(
    model=build_model, loss=cross_entropy, train=train, validation=validation, batch_size=32
)

study = optuna.create_study(sampler=esgd.ESGDSampler(population_size=16, n_epochs=4, seed=0))
study.optimize(esgd.ESGDTrainer(task), n_trials=16 * 8)  # 8 generations of 4 epochs each
model = esgd.load_best(study, build_model())

for name, examples in {"validation": validation, "test": test}.items():
    loss = task.score(model, examples, cross_entropy)
    error = task.score(model, examples, error_rate)
    print(f"{name}: loss {loss:.4f}, error {error:.2%}")
