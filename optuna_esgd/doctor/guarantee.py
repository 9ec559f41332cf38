"""Do the settings themselves keep the guarantee?"""

from __future__ import annotations

from optuna_esgd.doctor.findings import Finding
from optuna_esgd.doctor.patient import Patient

_NAME = "settings"


def examine_settings(patient: Patient) -> Finding:
    """Without back-off fitness may get worse, whatever the task is like."""
    configuration = patient.configuration
    if configuration.back_off == "none":
        return Finding(
            examination=_NAME,
            severity="broken",
            found="back_off='none': an SGD step may end worse than it began, and nothing takes it "
            "back.",
            advice="Choose back_off='best' or 'step', unless you want population-based training "
            "without the guarantee.",
        )
    barrier = ", asynchronously" if configuration.asynchronous else ""
    kept = "best point" if configuration.back_off == "best" else "last epoch that was no worse"
    return Finding(
        examination=_NAME,
        severity="ok",
        found=f"{configuration.population_size} individuals in cohorts of "
        f"{configuration.cohort_size}{barrier}; {configuration.n_epochs} epochs per generation, "
        f"with back-off to the {kept}; {configuration.n_offspring} offspring, "
        f"{configuration.n_elites} elites.",
        numbers={
            "population size": configuration.population_size,
            "cohort size": configuration.cohort_size,
        },
    )
