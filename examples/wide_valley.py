"""Entropy-SGD finds the wide valley (Chaudhari et al. 2017).

First in one dimension: 500 walkers begin between a narrow deep hole and a wide shallow valley.
Then on handwritten digits, with as many gradients as SGD: how much worse the training loss gets
when the weights are disturbed says how wide a minimum is. (On so small a task the two come out
much alike.)
"""

from __future__ import annotations

import torch
from digits_data import build_mlp, error_rate, load_examples
from figure_file import figure_path, write_lines
from torch import Tensor, nn

from optuna_esgd.optim import EntropySGD

WALKERS, L = 500, 20
HOLE, VALLEY = 0.8, -0.8
EPOCHS, BATCH, DISTURBANCES = 40, 32, 20


def landscape(x: Tensor) -> Tensor:
    """A hole of width 0.1 and depth 1.2, and a valley of width 0.5 and depth 1."""
    hole = 1.2 * torch.exp(-(((x - HOLE) / 0.1) ** 2) / 2)
    valley = torch.exp(-(((x - VALLEY) / 0.5) ** 2) / 2)
    return 0.05 * x**2 - hole - valley


def share_in_valley(optimizer_of: str) -> float:
    """Where the walkers are after 4000 gradients each."""
    x = torch.linspace(0.5, 1.1, WALKERS, requires_grad=True)
    optimizer: torch.optim.Optimizer = torch.optim.SGD([x], lr=0.05)
    n_steps = 4000
    if optimizer_of == "EntropySGD":
        generator = torch.Generator().manual_seed(0)
        optimizer = EntropySGD(
            [x], lr=0.3, langevin_steps=L, inner_lr=0.05, gamma=0.5, scoping=0.0, noise=0.9,
            averaging=0.1, generator=generator,
        )  # fmt: skip
        n_steps //= L

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = landscape(x).sum()
        loss.backward()
        return loss

    for _ in range(n_steps):
        optimizer.step(closure)  # type: ignore[arg-type]
    return float((x.detach() < 0).float().mean())


def train(name: str) -> tuple[nn.Module, float]:
    """A network after ``EPOCHS`` epochs of gradients, and its test error."""
    training, _, test = load_examples(0)
    torch.manual_seed(0)
    model = build_mlp()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gradients_per_step = 1
    if name == "EntropySGD":
        optimizer = EntropySGD(
            model.parameters(), lr=1.0, langevin_steps=L, inner_lr=0.1, gamma=0.03, noise=1e-3,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        gradients_per_step = L
    inputs, targets = training

    def closure() -> Tensor:
        indices = torch.randint(len(targets), (BATCH,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs[indices]), targets[indices])
        loss.backward()
        return loss

    for _ in range(EPOCHS * len(targets) // BATCH // gradients_per_step):
        optimizer.step(closure)  # type: ignore[arg-type]
    model.eval()
    return model, float(error_rate(model(test[0]), test[1]))


@torch.no_grad()
def sharpness(model: nn.Module) -> list[float]:
    """How much the training loss rises when weights move by 0, 10 %, ... of their length."""
    (inputs, targets), _, _ = load_examples(0)
    generator = torch.Generator().manual_seed(1)
    weights = nn.utils.parameters_to_vector(model.parameters())
    at_rest = float(nn.functional.cross_entropy(model(inputs), targets))
    rises = []
    for share in range(5):
        total = 0.0
        for _ in range(DISTURBANCES):
            noise = torch.randn(weights.shape, generator=generator)
            moved = weights + 0.1 * share * weights.norm() * noise / noise.norm()
            nn.utils.vector_to_parameters(moved, model.parameters())
            total += float(nn.functional.cross_entropy(model(inputs), targets))
        rises.append(total / DISTURBANCES - at_rest)
    nn.utils.vector_to_parameters(weights, model.parameters())
    return rises


def main() -> None:
    """Walk, train, report, draw."""
    path = figure_path("wide_valley.html", __doc__)
    torch.set_num_threads(1)
    print(f"share in the wide valley: {share_in_valley('SGD'):.2f} with SGD, ", end="")
    print(f"{share_in_valley('EntropySGD'):.2f} with Entropy-SGD")
    lines = {}
    for name in ("SGD", "EntropySGD"):
        model, error = train(name)
        lines[name] = sharpness(model)
        print(f"{name}: loss rises by {lines[name][-1]:.3f}, test error {error:.2%}")
    title = "How the training loss rises around the minimum"
    write_lines(path, lines, title=title, x="disturbance / 10 %", y="rise of the loss")


if __name__ == "__main__":
    main()
