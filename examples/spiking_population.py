"""A spiking network where the true gradient vanishes, trained by a mixed population.

256 random patterns of Poisson spikes have random labels, and a network of 100 inputs, 4 spiking
hidden neurons and 2 readouts is to learn them by heart. A spike is a step, so hidden weights have
no gradient; a surrogate gives them one. Populations of SGD and Adam train with both.
"""

from __future__ import annotations

import math

import optuna
import torch
from figure_file import figure_path, write_lines
from torch import Tensor, nn

import optuna_esgd as esgd
from optuna_esgd.modules import LIFLayer
from optuna_esgd.species import SGD, Adam

STEPS, GENERATIONS, POPULATION = 25, 6, 6


class SpikingNetwork(nn.Module):
    """100-4-2; the answer is the readout with the highest potential at any time."""

    def __init__(self, window: float) -> None:
        super().__init__()
        self.hidden = LIFLayer(100, 4, window=window)
        self.readout = LIFLayer(4, 2, spiking=False)
        nn.init.normal_(self.hidden.synapses.weight, std=0.3)
        nn.init.normal_(self.readout.synapses.weight, std=0.3)

    def forward(self, spikes: Tensor) -> Tensor:
        """(batch, steps, 100) spikes to (batch, 2) potentials."""
        potentials: Tensor = self.readout(self.hidden(spikes.transpose(0, 1))).amax(0)
        return potentials


def patterns() -> tuple[Tensor, Tensor]:
    """Each input spikes once in the 25 steps on average."""
    generator = torch.Generator().manual_seed(0)
    spikes = (torch.rand(256, STEPS, 100, generator=generator) < 1 / STEPS).float()
    return spikes, torch.randint(2, (256,), generator=generator)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of right answers in a batch."""
    return (outputs.argmax(-1) == targets).float().mean()


def train(window: float) -> tuple[float, list[float]]:
    """Accuracy of the best network, and the best loss after each generation."""
    task = esgd.SupervisedTask(
        model=lambda: SpikingNetwork(window),
        loss=nn.functional.cross_entropy,
        train=patterns(),
        validation=patterns(),
        batch_size=128,
    )
    sampler = esgd.ESGDSampler(POPULATION, n_epochs=12, n_offspring=POPULATION, seed=0)
    study = optuna.create_study(sampler=sampler)
    species = [Adam(lr=(1e-2, 1e-1)), SGD(lr=(1e-2, 1.0))]
    trainer = esgd.ESGDTrainer(task, species=species, mutation="metropolis")
    study.optimize(trainer, n_trials=POPULATION * GENERATIONS)
    model = esgd.load_best(study, task.build_model())
    losses = [means[0] for means in esgd.certificate(study).values()]
    return task.score(model, patterns(), accuracy), losses


def main() -> None:
    """Train with the true gradient and with the surrogate, report, draw."""
    path = figure_path("spiking_population.html", __doc__)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    true, true_losses = train(window=0.0)
    surrogate, surrogate_losses = train(window=math.inf)
    print(f"accuracy: {true:.3f} with the true gradient, {surrogate:.3f} with the surrogate")
    lines = {"true gradient": true_losses, "surrogate gradient": surrogate_losses}
    title = "Spiking networks, best of a population"
    write_lines(path, lines, title=title, x="generation", y="loss", first=1)


if __name__ == "__main__":
    main()
