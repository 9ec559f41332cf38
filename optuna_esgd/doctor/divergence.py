"""How many founders have no fitness, or a worse one, after their first epoch?"""

from __future__ import annotations

import math
from collections import Counter

from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.patient import Patient

_NAME = "founders that learn"
_MANY = 0.5


def examine_divergence(patient: Patient) -> Finding:
    """Count founders by what became of them."""
    births = [fitness for cohort in patient.cohorts for fitness in cohort.birth_fitness]
    ends, individuals = patient.fitness, patient.individuals
    n_founders = len(ends)
    diverged = [one for one, end in zip(individuals, ends, strict=True) if math.isinf(end)]
    n_worse = sum(birth <= end < math.inf for birth, end in zip(births, ends, strict=True))
    numbers = {
        "founders": n_founders,
        "diverged at birth": sum(map(math.isinf, births)),
        "diverged": len(diverged),
        "not better": n_worse,
    }
    if len(diverged) == n_founders and all(map(math.isinf, births)):
        return Finding(
            examination=_NAME,
            severity="broken",
            found=f"None of {n_founders} founders has a fitness: it is NaN or infinite before "
            "training and after.",
            advice="There is nothing to select by. Look for NaN in the data, for a loss that "
            "overflows or takes the log of 0, and for the wrong kind of target.",
            numbers=numbers,
        )
    if diverged:
        return Finding(
            examination=_NAME,
            severity="advice",
            found=f"{len(diverged)} of {n_founders} founders diverged in their first epoch: their "
            f"fitness is NaN or infinite ({_by_species(patient)}).",
            advice="They back off to their birth, so nothing is lost but their time. Lower the "
            f"upper end of the learning rates' range{_lowest_rate(patient)}.",
            numbers=numbers,
        )
    if n_worse > _MANY * n_founders:
        return Finding(
            examination=_NAME,
            severity="advice",
            found=f"{n_worse} of {n_founders} founders were no better after their first epoch "
            "than before it; they would back off.",
            advice="Lower the learning rates' range, or look whether fitness measures what the "
            "loss trains.",
            numbers=numbers,
        )
    return Finding(
        examination=_NAME,
        severity="ok",
        found=f"{n_founders - n_worse} of {n_founders} founders got better in their first epoch, "
        "none diverged.",
        numbers=numbers,
    )


def _by_species(patient: Patient) -> str:
    everyone = Counter(one.species for one in patient.individuals)
    pairs = zip(patient.individuals, patient.fitness, strict=True)
    diverged = Counter(one.species for one, fitness in pairs if math.isinf(fitness))
    return ", ".join(f"{name} {n} of {everyone[name]}" for name, n in diverged.items())


def _lowest_rate(patient: Patient) -> str:
    """From which learning rate on they diverged, as far as there are learning rates."""
    pairs = zip(patient.individuals, patient.fitness, strict=True)
    diverged = (one.hyperparameters.get("lr") for one, end in pairs if math.isinf(end))
    rates = [rate for rate in diverged if isinstance(rate, float | int)]
    return f": the lowest that diverged was lr = {min(rates):.2g}" if rates else ""
