"""Plain Optuna: every trial trains a network from scratch. Compare with objective_esgd.py."""

import optuna
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

features, labels = load_breast_cancer(return_X_y=True)
x = torch.tensor((features - features.mean(0)) / features.std(0), dtype=torch.float32)
y = torch.tensor(labels)
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, validation = order[:300], order[300:]


def train_one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model.train()
    for indices in train[torch.randperm(len(train))].split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[indices]), y[indices]).backward()
        optimizer.step()


def evaluate(model: nn.Module) -> float:
    model.eval()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(x[validation]), y[validation]).item()


def objective(trial: optuna.Trial) -> float:
    torch.manual_seed(trial.number)
    model = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 2))
    lr = trial.suggest_float("lr", 1e-3, 1.0, log=True)
    momentum = trial.suggest_float("momentum", 0.5, 0.99)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    for _ in range(20):
        train_one_epoch(model, optimizer)
    return evaluate(model)


study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
study.optimize(objective, n_trials=8)
print(f"best validation loss {study.best_value:.4f} with {study.best_params}")
