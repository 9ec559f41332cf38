"""ESGD on handwritten digits, beside two ways to spend the same number of gradients.

``make demo`` runs this. It can be interrupted at any time and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import optuna
import torch
from digits_data import build_mlp, error_rate, load_examples
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table
from torch import nn
from tqdm import tqdm

import optuna_esgd as esgd

POPULATION = 16
GENERATIONS = 8
EPOCHS = 4  # per generation
BATCH_SIZE = 32

console = Console()


def main() -> None:
    """Train the population and both control arms, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where to keep the data")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # for networks this small a second thread costs more than it brings
    arguments.folder.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{arguments.folder / 'esgd.db'}"

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    train, validation, test = load_examples()
    task = esgd.SupervisedTask(
        model=build_mlp,
        loss=nn.functional.cross_entropy,
        train=train,
        validation=validation,
        batch_size=BATCH_SIZE,
    )
    storage = esgd.create_storage(url)
    evolved = run_population("digits", task, storage, arguments.seed, n_evolution_rounds=1)
    apart = run_population(
        "digits-no-evolution", task, storage, arguments.seed, n_evolution_rounds=0
    )
    searched = run_random_search(task, arguments.seed)
    report(
        task,
        test,
        {
            "ESGD": esgd.load_best(evolved, build_mlp()),
            "same population, no evolution": esgd.load_best(apart, build_mlp()),
            "one model, tuned by random search": searched,
        },
    )
    tell_story(evolved)
    console.print(
        f"\nOpen the dashboard:  [bold].venv/bin/optuna-esgd dashboard {url}[/]\n"
        f"Check every digest, lineage and the guarantee:  "
        f"[bold].venv/bin/optuna-esgd verify {url} --study digits[/]",
        soft_wrap=True,
    )


def run_population(
    name: str,
    task: esgd.SupervisedTask,
    storage: optuna.storages.BaseStorage,
    seed: int,
    *,
    n_evolution_rounds: int,
) -> optuna.Study:
    """Train a population, or go on where an earlier run was interrupted."""
    sampler = esgd.ESGDSampler(
        POPULATION,
        seed=seed,
        n_epochs=EPOCHS,
        n_generations=GENERATIONS,
        n_evolution_rounds=n_evolution_rounds,
    )
    study = optuna.create_study(
        study_name=name, storage=storage, sampler=sampler, load_if_exists=True
    )
    n_done = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    n_left = POPULATION * GENERATIONS - n_done
    console.rule(f"{name}: {n_left} of {POPULATION * GENERATIONS} individuals to train")
    if n_left > 0:
        trainer = esgd.ESGDTrainer(task)
        study.optimize(
            trainer, n_trials=n_left, callbacks=[print_generation], show_progress_bar=True
        )
    return study


def print_generation(study: optuna.Study, trial: FrozenTrial) -> None:
    """One line when the last individual of a generation is in."""
    if trial.state != TrialState.COMPLETE:  # a trial that found everything done
        return
    generation = trial.user_attrs["generation"]
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    mine = [one for one in trials if one.user_attrs["generation"] == generation]
    if len(mine) < POPULATION:
        return
    values = sorted(one.values[0] for one in mine)
    species = [one.params["species"] for one in mine]
    shares = ", ".join(f"{name} {species.count(name)}" for name in sorted(set(species)))
    n_bred = sum(one.user_attrs["birth"] == "recombination" for one in mine)
    tqdm.write(
        f"generation {generation}: best {values[0]:.4f}  "
        f"median {values[len(values) // 2]:.4f}  {shares}  bred {n_bred}"
    )


def run_random_search(task: esgd.SupervisedTask, seed: int) -> nn.Module:
    """As many models with random settings and a cosine schedule; the best on validation wins."""
    models: dict[int, nn.Module] = {}

    def objective(trial: optuna.Trial) -> float:
        species = trial.suggest_categorical("species", ["SGD", "Adam"])
        torch.manual_seed(seed * 1000 + trial.number)
        model = build_mlp()
        optimizer: torch.optim.Optimizer
        if species == "SGD":
            optimizer = torch.optim.SGD(
                model.parameters(),
                lr=trial.suggest_float("lr", 1e-3, 1.0, log=True),
                momentum=trial.suggest_float("momentum", 0.5, 0.99),
            )
        else:
            optimizer = torch.optim.Adam(
                model.parameters(), lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True)
            )
        n_epochs = GENERATIONS * EPOCHS
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_epochs)
        for number in range(n_epochs):
            epoch = esgd.Epoch(generation=0, individual=trial.number, number=number, seed=number)
            task.train_epoch(model, optimizer, epoch)
            schedule.step()
        models[trial.number] = model
        return task.fitness(model)

    console.rule(f"digits-random-search: {POPULATION} models from start to end")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    study.optimize(objective, n_trials=POPULATION, show_progress_bar=True)
    return models[study.best_trial.number]


def report(
    task: esgd.SupervisedTask,
    test: tuple[torch.Tensor, torch.Tensor],
    arms: dict[str, nn.Module],
) -> None:
    """All arms side by side; each picked its model on validation, the test set is seen here."""
    n_steps = POPULATION * GENERATIONS * EPOCHS * task.train.n_batches
    table = Table(
        title=f"{n_steps:,} gradients each",
        caption="One seed, one split: an anecdote. Each arm picked its model by validation loss.",
    )
    for heading in ("arm", "val. loss", "val. error", "test loss", "test error"):
        table.add_column(heading, justify="left" if heading == "arm" else "right")
    for name, model in arms.items():
        cells = [
            f"{task.score(model, examples, criterion):{form}}"
            for examples in (task.validation, test)
            for criterion, form in ((nn.functional.cross_entropy, ".4f"), (error_rate, ".2%"))
        ]
        table.add_row(name, *cells)
    console.print(table)


def tell_story(study: optuna.Study) -> None:
    """The best individual's main line: who it descends from, and the schedule that emerged."""
    console.rule("Genealogy of the best, and the schedule it discovered")
    console.print(
        "generation.round.number (round 0 trained, 1 bred), birth, loss at birth → at the end"
    )
    for one in esgd.ancestry(study):
        if one.reference.round > 0:
            parents = " and ".join(str(parent) for parent in one.parents)
            console.print(
                f"{one.reference!s:>7}  bred from {parents}: {one.fitness:.4f}", highlight=False
            )
            continue
        values = "  ".join(
            f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in one.hyperparameters.items()
        )
        born = "new" if one.birth_fitness is None else f"{one.birth_fitness:.4f}"
        console.print(
            f"{one.reference!s:>7}  {one.birth:<13} {born:>6} → {one.fitness:.4f}  "
            f"{one.species:<5} {values}",
            highlight=False,
            soft_wrap=True,
        )


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, UnboundLocalError) as error:
        # Optuna 5 makes the latter of a Ctrl-C that comes while it ends a trial.
        if KeyboardInterrupt not in (type(error), type(error.__context__)):
            raise
        console.print("\nInterrupted. Nothing is lost: run it again, and it goes on from here.")
        sys.exit(130)
