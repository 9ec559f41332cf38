"""Population-based training of the digits with Ray Tune, in an environment of its own.

    python ray_pbt.py --individuals 16 --epochs 20 --repetitions 3

Prints one JSON line: the seconds of every repetition, without starting Ray. Its best setting is
used: trainables as classes, actors that are used again, and asynchronous exploits.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining

FOLDER = str(Path(__file__).parent)
sys.path.insert(0, FOLDER)


class Digits(tune.Trainable):  # type: ignore[misc]
    """One network; an iteration is an epoch."""

    def setup(self, config: dict[str, Any]) -> None:
        sys.path.insert(0, FOLDER)
        import digits

        torch.set_num_threads(1)
        self.digits = digits
        self.data, self.held_out = digits.read_digits()
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.model = self.digits.build_model()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=new_config["lr"], momentum=new_config["momentum"]
        )
        return True

    def step(self) -> dict[str, float]:
        self.digits.train_epoch(self.model, self.optimizer, self.data)
        return {"loss": self.digits.validate(self.model, self.held_out)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, Path(checkpoint_dir) / "state.pt")

    def load_checkpoint(self, checkpoint: Any) -> None:
        state = torch.load(Path(checkpoint) / "state.pt")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group.update(lr=self.config["lr"], momentum=self.config["momentum"])


def run(n_individuals: int, n_epochs: int, folder: str) -> None:
    """One whole run."""
    space = {"lr": tune.loguniform(1e-3, 0.3), "momentum": tune.uniform(0.0, 0.99)}
    scheduler = PopulationBasedTraining(
        time_attr="training_iteration",
        metric="loss",
        mode="min",
        perturbation_interval=1,
        hyperparam_mutations=space,
    )
    results = tune.Tuner(
        tune.with_resources(Digits, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=n_individuals, scheduler=scheduler, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            stop={"training_iteration": n_epochs}, storage_path=folder, verbose=0
        ),
    ).fit()
    if results.num_errors:
        raise RuntimeError(f"{results.num_errors} trials failed: {results.errors[0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--individuals", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=3)
    parsed = parser.parse_args()
    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False)
    seconds = []
    for _ in range(1 + parsed.repetitions):  # the first one warms up
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            run(parsed.individuals, parsed.epochs, folder)
            seconds.append(time.perf_counter() - started)
    ray.shutdown()
    print(json.dumps({"ray": ray.__version__, "warm_up": seconds[0], "seconds": seconds[1:]}))


if __name__ == "__main__":
    main()
