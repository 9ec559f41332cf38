"""Every species of the library in one population, on handwritten digits: who survives?

The network spikes, so that STDP can take part besides those that train any network: a pixel is
one spike, the brighter the sooner; 40 spiking neurons feed 10 readouts. All species begin with the
ranges they come with. Whose share of the population, and of its elite, grows has trained better
than others; nobody can do the rest any harm.
"""

from __future__ import annotations

import optuna
import torch
from digits_data import error_rate, load_examples
from figure_file import figure_path
from torch import Tensor, nn

import optuna_esgd as esgd
from optuna_esgd.modules import LIFLayer
from optuna_esgd.species import named_species
from optuna_esgd.visualization import plot_species_share

STEPS, POPULATION, GENERATIONS = 5, 48, 6


class SpikingNetwork(nn.Module):
    """64-40-10; the answer is the readout with the highest potential at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = LIFLayer(64, 40)
        self.readout = LIFLayer(40, 10, spiking=False)
        nn.init.normal_(self.hidden.synapses.weight, std=0.3)
        nn.init.normal_(self.readout.synapses.weight, std=0.1)

    def forward(self, pixels: Tensor) -> Tensor:
        """(batch, 64) grey values to (batch, 10) potentials."""
        times = ((1 - pixels) * STEPS).floor()  # never, where a pixel is black
        spikes = torch.stack([(times == step).to(pixels.dtype) for step in range(STEPS)])
        potentials: Tensor = self.readout(self.hidden(spikes))[-1]
        return potentials


def main() -> None:
    """Train, report, draw."""
    path = figure_path("all_species.html", __doc__)
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    training, validation, test = load_examples()
    task = esgd.SupervisedTask(
        model=SpikingNetwork,
        loss=nn.functional.cross_entropy,
        train=training,
        validation=validation,
        batch_size=40,
    )
    species = list(named_species().values())
    sampler = esgd.ESGDSampler(POPULATION, n_offspring=POPULATION, n_epochs=1, seed=1)
    study = optuna.create_study(sampler=sampler)
    study.optimize(esgd.ESGDTrainer(task, species=species), n_trials=POPULATION * GENERATIONS)
    generations = [
        [trial.params["species"] for trial in study.trials[start : start + POPULATION]]
        for start in range(0, len(study.trials), POPULATION)
    ]
    first, last = set(generations[0]), generations[-1]
    print(f"species: {len(species)} in the library, {len(first)} in the first generation")
    for name in sorted(set(last), key=last.count, reverse=True):
        before, after = (shown.count(name) / POPULATION for shown in (generations[0], last))
        print(f"{name:20} {before:5.1%} at first, {after:5.1%} in the end")
    leader = max(set(last), key=last.count)
    print(f"leader: {leader}, from {generations[0].count(leader)} to {last.count(leader)}")
    error = task.score(esgd.load_best(study, task.build_model()), test, error_rate)
    print(f"test error of the best network: {error:.1%}")
    plot_species_share(study).write_html(path, include_plotlyjs="directory")
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
