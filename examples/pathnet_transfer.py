"""PathNet's transfer: a frozen path of one task speeds up the next (Fernando et al. 2017).

A network of 3 layers with 10 modules each learns to tell noisy handwritten 1 from 3; 64 paths
through it compete in binary tournaments, and the loser becomes a mutated copy of the winner. Then
the best path is frozen, everything else starts anew, and the population learns 1 against 2:
compared with a network that has never seen the first task, at equal training.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from figure_file import figure_path, write_lines
from sklearn.datasets import load_digits
from torch import Tensor, nn

from optuna_esgd.evolution.tournament import decide_tournament, draw_contestants
from optuna_esgd.modules import Path, PathwayNetwork, mutate_path

SEEDS, POPULATION, BATCHES, BATCH_SIZE, LR = 6, 64, 20, 16, 0.05
THRESHOLD, FIRST_GENERATIONS, MOST_GENERATIONS = 0.78, 60, 100


def load_pair(classes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Images of two digits, and which of them each is."""
    images, labels = load_digits(return_X_y=True)
    chosen = np.isin(labels, classes)
    inputs = torch.tensor(images[chosen] / 16, dtype=torch.float32)
    return inputs, torch.tensor(labels[chosen] == classes[1]).long()


def add_noise(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Turn half of the pixels into salt or pepper."""
    salt_or_pepper = torch.randint(2, inputs.shape, generator=generator).float()
    is_noise = torch.rand(inputs.shape, generator=generator) < 0.5
    return torch.where(is_noise, salt_or_pepper, inputs)


class Evolution:
    """A population of paths through one network that learns one task."""

    def __init__(self, network: PathwayNetwork, task: tuple[Tensor, Tensor], seed: int) -> None:
        self.network = network
        self.inputs, self.targets = task
        self.rng = np.random.default_rng(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.paths = [network.random_path(self.rng) for _ in range(POPULATION)]
        self.optimizer = torch.optim.SGD(
            [p for p in network.parameters() if p.requires_grad], lr=LR
        )
        self.accuracies: list[float] = []
        self.best: Path = self.paths[0]

    def run(self, n_generations: int, threshold: float = math.inf) -> int:
        """Generations until a path answers right often enough."""
        while len(self.accuracies) < n_generations:
            contestants = draw_contestants(POPULATION, self.rng)
            accuracies = [self.train(self.paths[one]) for one in contestants]
            match = decide_tournament(contestants, [-accuracy for accuracy in accuracies])
            self.best = self.paths[match.winner]
            self.paths[match.loser] = mutate_path(self.best, self.network.n_modules, self.rng)
            self.accuracies.append(max(accuracies))
            if self.accuracies[-1] >= threshold:
                break
        return len(self.accuracies)

    def train(self, path: Path) -> float:
        """Train a path on a few batches; the share of right answers along the way."""
        n_right = 0
        for _ in range(BATCHES):
            batch = torch.randint(len(self.targets), (BATCH_SIZE,), generator=self.generator)
            outputs = self.network(add_noise(self.inputs[batch], self.generator), path)
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(outputs, self.targets[batch]).backward()
            self.optimizer.step()
            n_right += int((outputs.argmax(1) == self.targets[batch]).sum())
        return n_right / (BATCHES * BATCH_SIZE)


def transfer(seed: int) -> tuple[int, int, list[float], list[float]]:
    """Generations on the second task from scratch and after the first one; both courses."""
    torch.manual_seed(seed)
    scratch = Evolution(PathwayNetwork(64, 2), load_pair((1, 2)), seed)
    n_scratch = scratch.run(MOST_GENERATIONS, THRESHOLD)
    network = PathwayNetwork(64, 2)
    first = Evolution(network, load_pair((1, 3)), seed)
    first.run(FIRST_GENERATIONS)
    network.freeze_path(first.best, torch.Generator().manual_seed(seed))
    after = Evolution(network, load_pair((1, 2)), seed)
    n_after = after.run(MOST_GENERATIONS, THRESHOLD)
    return n_scratch, n_after, scratch.accuracies, after.accuracies


def main() -> None:
    """Compare over seeds, report, draw."""
    path = figure_path("pathnet_transfer.html", __doc__)
    torch.set_num_threads(1)
    runs = [transfer(seed) for seed in range(SEEDS)]
    for seed, (n_scratch, n_after, *_) in enumerate(runs):
        print(f"seed {seed}: {n_scratch} generations from scratch, {n_after} after the first task")
    scratch = sum(run[0] for run in runs) / SEEDS
    after = sum(run[1] for run in runs) / SEEDS
    print(f"mean generations: {scratch:.1f} from scratch, {after:.1f} after the first task")
    lines = {"from scratch": runs[0][2], "after the first task": runs[0][3]}
    title = "1 against 2, after 1 against 3 (first seed)"
    write_lines(path, lines, title=title, x="generation", y="accuracy in training", first=1)


if __name__ == "__main__":
    main()
