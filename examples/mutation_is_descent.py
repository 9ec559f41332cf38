"""Neuroevolution that equals gradient descent (Whitelam et al. 2021).

A small network learns sin(πx) twice: by mutations of all weights that are kept if the loss does
not increase, and by gradient descent with gradients of unit length. With σ = lr·√(2π) the mean of
the mutating runs follows gradient descent: in its loss, and in its weights, the closer the more
runs there are.
"""

from __future__ import annotations

import math

import torch
from figure_file import figure_path, write_lines
from torch import Tensor, nn

from optuna_esgd.optim import ConditionedMutation
from optuna_esgd.optim.conditioned_mutation import sigma_for_lr

LR, STEPS, RUNS = 5e-4, 1500, 4
X = torch.linspace(-1, 1, 1001).unsqueeze(1)
TARGET = torch.sin(math.pi * X)


def build_model() -> nn.Module:
    """1-40-1, the same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 1))


def weights_of(model: nn.Module) -> Tensor:
    """All of them in a row."""
    return nn.utils.parameters_to_vector(model.parameters()).detach()


def descend() -> tuple[list[float], Tensor]:
    """Loss per step of normalised gradient descent, and its last weights."""
    model, losses = build_model(), []
    parameters = list(model.parameters())
    for _ in range(STEPS):
        loss = nn.functional.mse_loss(model(X), TARGET)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, parameters)
        length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=LR / float(length))
    return losses, weights_of(model)


def mutate(seed: int) -> tuple[list[float], Tensor]:
    """Loss per step of one mutating run, and its last weights."""
    model, losses = build_model(), []
    generator = torch.Generator().manual_seed(seed)
    optimizer = ConditionedMutation(model.parameters(), sigma_for_lr(LR), generator=generator)

    def closure() -> Tensor:
        loss = nn.functional.mse_loss(model(X), TARGET)
        losses.append(loss.item())
        return loss

    with torch.no_grad():
        for step in range(STEPS):
            optimizer.step(closure)
            del losses[step + 1 :]  # the loss before the step, of the two it asks for
    return losses, weights_of(model)


def main() -> None:
    """Run both ways, report, draw."""
    path = figure_path("mutation_is_descent.html", __doc__)
    torch.set_num_threads(1)
    descent, goal = descend()
    runs, ends = zip(*(mutate(seed) for seed in range(RUNS)), strict=True)
    mean = [sum(losses) / RUNS for losses in zip(*runs, strict=True)]
    difference = max(abs(ours / theirs - 1) for ours, theirs in zip(mean, descent, strict=True))
    print(f"loss: {descent[0]:.4f} at first, {descent[-1]:.4f} by descent, {mean[-1]:.4f} mutated")
    print(f"largest difference of the mean loss: {difference:.2%}")
    one = sum(float((goal - end).square().mean()) for end in ends) / RUNS
    all_of_them = float((goal - torch.stack(ends).mean(0)).square().mean())
    print(f"squared distance per weight: {one:.2e} of one run, {all_of_them:.2e} of their mean")
    lines = {"gradient descent": descent[::10], f"mean of {RUNS} mutating runs": mean[::10]}
    lines |= {"one of them": runs[0][::10]}
    title = "Mutations that are kept if they do no harm are gradient descent"
    write_lines(path, lines, title=title, x="step / 10", y="loss")


if __name__ == "__main__":
    main()
