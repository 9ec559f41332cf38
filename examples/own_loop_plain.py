"""Plain PyTorch: a loop of its own, with noisy inputs. Compare with own_loop_esgd.py."""

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

features, progression = load_diabetes(return_X_y=True)
x = torch.tensor(features / features.std(0), dtype=torch.float32)
y = torch.tensor((progression - progression.mean()) / progression.std(), dtype=torch.float32)
order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
train, validation = order[:250], order[250:]
NOISE = 0.1


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 1), nn.Flatten(0))


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, generator: torch.Generator, noise: float
) -> None:
    for indices in train[torch.randperm(len(train), generator=generator)].split(32):
        jitter: Tensor = noise * torch.randn(len(indices), 10, generator=generator)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[indices] + jitter), y[indices]).backward()
        optimizer.step()


def validation_error(model: nn.Module) -> float:
    with torch.no_grad():
        return nn.functional.mse_loss(model(x[validation]), y[validation]).item()


if __name__ == "__main__":
    torch.manual_seed(0)
    model = build_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    generator = torch.Generator().manual_seed(0)
    for _ in range(24):
        train_epoch(model, optimizer, generator, NOISE)
    print(f"validation error {validation_error(model):.4f}")
