"""All examinations of a trainer, one after the other."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from optuna_esgd.doctor.agreement import examine_batched_scoring, examine_batched_training
from optuna_esgd.doctor.costs import examine_time
from optuna_esgd.doctor.determinism import examine_determinism, examine_randomness
from optuna_esgd.doctor.divergence import examine_divergence
from optuna_esgd.doctor.evaluation_mode import examine_evaluation_mode
from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.fitness_noise import examine_noise
from optuna_esgd.doctor.guarantee import examine_settings
from optuna_esgd.doctor.leakage import examine_leakage
from optuna_esgd.doctor.patient import Patient, Say, prepare
from optuna_esgd.doctor.repetition import examine_breeding, examine_training
from optuna_esgd.doctor.space import examine_space
from optuna_esgd.sampler import ESGDSampler
from optuna_esgd.trainer import workshop
from optuna_esgd.trainer.esgd_trainer import ESGDTrainer
from optuna_esgd.trainer.seeding import seeded

Examination = Callable[[Patient], Finding]

EXAMINATIONS: Sequence[Examination] = (
    examine_settings,
    examine_determinism,
    examine_randomness,
    examine_evaluation_mode,
    examine_batched_scoring,
    examine_batched_training,
    examine_breeding,
    examine_training,
    examine_divergence,
    examine_noise,
    examine_leakage,
    examine_time,
    examine_space,
)
_SEED = 0


class Checkup(NamedTuple):
    """What all examinations found.

    Attributes:
        findings: One per examination.
    """

    findings: Sequence[Finding]

    @property
    def is_guaranteed(self) -> bool:
        """Whether nothing was found that breaks the guarantee."""
        return all(one.severity != "broken" for one in self.findings)


def examine(
    trainer: ESGDTrainer,
    sampler: ESGDSampler,
    *,
    direction: Literal["minimize", "maximize"] = "minimize",
    n_workers: int = 1,
    say: Say = lambda _text: None,
) -> Checkup:
    """Examine a trainer in memory; global random generators are left as they were.

    Args:
        trainer: What a worker would train with.
        sampler: Its settings are the run's.
        direction: Of the study.
        n_workers: How many will share the population.
        say: Told what takes a while.

    Raises:
        EsgdError: A worker could not begin with this trainer either.
    """
    with seeded(_SEED), _said_once():
        patient = prepare(trainer, sampler, direction=direction, n_workers=n_workers, say=say)
        return Checkup([examination(patient) for examination in EXAMINATIONS])


@contextlib.contextmanager
def _said_once() -> Iterator[None]:
    """Findings say what goes row by row; each worker's workshop need not say it again."""
    logger = logging.getLogger(workshop.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
