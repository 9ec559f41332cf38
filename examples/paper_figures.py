"""Figures 1 and 2 of the ESGD paper, on its first kind of task: frames of speech.

Figure 1: fitness over the generations, of ESGD as in the paper and of the same population without
evolution; a band from the best to the worst, the mean of the m best within it, and one network
trained alone for as many epochs as each of them. Figure 2: how many of the m selected are
offspring (Cui et al. 2018, section 4.2).

``python paper_figures.py`` takes a while; ``--frames 1000 --generations 8`` does not.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import optuna
import plotly.graph_objects as go
import speech_esgd
import torch
from plotly.subplots import make_subplots
from speech_data import VARIANTS, build_dnn, load_frames
from torch import nn

import optuna_esgd as esgd
from optuna_esgd.comparison.arms import run_arm
from optuna_esgd.comparison.populations import settings_of
from optuna_esgd.visualization.history import BIRTHS, History, read_history
from optuna_esgd.visualization.style import BEST, COLOURS, fade

Floats = npt.NDArray[np.float64]
POPULATIONS = {"paper": "ESGD", "baseline": "population without evolution"}


class Curves(NamedTuple):
    """One population, (generations,) each.

    Attributes:
        best: Lowest fitness.
        elite_mean: Mean of the m best.
        worst: Highest fitness that is finite.
        offspring: Share of offspring among the m selected that a generation starts from; 0 in
            the first, whose individuals are founders.
    """

    best: Floats
    elite_mean: Floats
    worst: Floats
    offspring: Floats


def benchmark(
    seed: int, *, n_frames: int | None, n_generations: int, population_size: int
) -> esgd.Benchmark:
    """The speech task, with fewer frames to learn from if wanted."""
    made = replace(
        speech_esgd.dnn(seed),
        n_epochs=1,
        n_generations=n_generations,
        population_size=population_size,
    )
    if n_frames is None:
        return made
    (inputs, targets), validation, _ = load_frames(seed)
    chosen = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:n_frames]
    task = esgd.SupervisedTask(
        model=build_dnn,
        loss=nn.functional.cross_entropy,
        train=(inputs[chosen], targets[chosen]),
        validation=validation,
        batch_size=VARIANTS["dnn"].batch_size,
    )
    return replace(made, task=task)


def train(made: esgd.Benchmark, arm: str, seed: int) -> Curves:
    """Train one population, one epoch in each generation, and read its history."""
    settings = settings_of(arm, made, n_epochs=made.n_epochs_each)
    study = optuna.create_study(sampler=esgd.ESGDSampler(seed=seed, **settings))
    study.optimize(made.trainer())
    return read(read_history(study))


def read(history: History) -> Curves:
    """Summarise each generation."""
    columns = []
    for generation in range(history.n_generations):
        rows = history.rows(generation)
        fitness = np.sort(history.fitness[rows])
        finite = fitness[np.isfinite(fitness)]
        # Elites come first in the births of a generation.
        births = history.birth[rows][: history.n_elites]
        columns.append(
            (
                finite[0],
                fitness[: history.n_elites].mean(),
                finite[-1],
                np.mean(births == BIRTHS.index("recombination")),
            )
        )
    return Curves(*np.array(columns).T)


def draw(populations: dict[str, Curves], single: float) -> go.Figure:
    """Figure 1 above, Figure 2 below."""
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        subplot_titles=["Fitness", "Offspring among the Selected"],
    )
    for (arm, curves), colour in zip(populations.items(), COLOURS, strict=False):
        x = list(range(len(curves.best)))
        edge = {"mode": "lines", "line": {"width": 0}, "legendgroup": arm, "hoverinfo": "skip"}
        figure.add_scatter(x=x, y=curves.worst, showlegend=False, row=1, col=1, **edge)
        figure.add_scatter(
            x=x,
            y=curves.best,
            fill="tonexty",
            fillcolor=fade(colour, 0.2),
            showlegend=False,
            row=1,
            col=1,
            **edge,
        )
        for values, dash, name in (
            (curves.best, "solid", "best"),
            (curves.elite_mean, "dash", "mean of the m best"),
        ):
            figure.add_scatter(
                x=x,
                y=values,
                mode="lines",
                line={"color": colour, "dash": dash},
                name=f"{POPULATIONS[arm]}: {name}",
                legendgroup=arm,
                row=1,
                col=1,
            )
        if arm == "paper":
            figure.add_bar(
                x=x, y=curves.offspring, marker={"color": colour}, showlegend=False, row=2, col=1
            )
    figure.add_hline(y=single, line={"color": BEST, "dash": "dot"}, row=1, col=1)
    figure.add_scatter(
        x=[0], y=[single], mode="lines", line={"color": BEST, "dash": "dot"}, name="one network",
        row=1, col=1,
    )  # fmt: skip
    figure.update_yaxes(title_text="validation loss", type="log", row=1, col=1)
    figure.update_yaxes(title_text="share", tickformat=".0%", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="Generation", row=2, col=1)
    return figure.update_layout(title="ESGD, and the Same Without Evolution", height=800)


def main() -> None:
    """Train all three, report, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figure", type=Path, default=Path("demo/paper_figures.html"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, help="to learn from; all if not given")
    parser.add_argument("--generations", type=int, default=24, help="of one epoch each")
    parser.add_argument("--population", type=int, default=16)
    parsed = parser.parse_args()
    parsed.figure.parent.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    made = benchmark(
        parsed.seed,
        n_frames=parsed.frames,
        n_generations=parsed.generations,
        population_size=parsed.population,
    )
    alone = replace(made, population_size=2)  # no population is smaller
    single = run_arm("single", alone, seed=parsed.seed, n_epochs=made.n_epochs_each).validation
    populations = {arm: train(made, arm, parsed.seed) for arm in POPULATIONS}
    for arm, curves in populations.items():
        print(f"{POPULATIONS[arm]}: validation loss {curves.best[-1]:.4f}")
    print(f"one network (the better of two): validation loss {single:.4f}")
    shares = populations["paper"].offspring
    print("offspring among the selected: " + " ".join(f"{share:.0%}" for share in shares[1:]))
    draw(populations, single).write_html(parsed.figure, include_plotlyjs=True)
    print(f"figure: {parsed.figure}")


if __name__ == "__main__":
    main()
