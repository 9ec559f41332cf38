"""Algorithm 1 as a pure function: from what is committed to what is to be done next."""

from __future__ import annotations

from optuna_esgd.engine import asynchronous
from optuna_esgd.engine.actions import Action, Commit, Evaluate, Stop, Train, Wait
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Facts, Plan
from optuna_esgd.engine.planning import plan_founders, plan_offspring, plan_survivors
from optuna_esgd.engine.ports import Explore


def decide(facts: Facts, configuration: Configuration, explore: Explore) -> Action:
    """Say what a worker should do now.

    One generation (Cui et al. 2018, Algorithm 1) is an SGD step (round 0), then
    ``n_evolution_rounds`` rounds of offspring; each round is a plan whose slots are worked off
    before the next round is planned from their results. Asynchronously, every place does so by
    itself (``engine.asynchronous``).

    Args:
        facts: What is committed.
        configuration: The run's settings.
        explore: Where new hyperparameters come from.

    Returns:
        The next action; the same for everyone who reads the same facts.
    """
    if facts.generation < 0:
        return Commit(plan_founders(configuration, explore))
    if configuration.asynchronous:
        return asynchronous.decide(facts, configuration, explore)
    if not configuration.wants(facts.generation):
        return Stop()  # planned by a worker who had not been told where the run ends
    claimable = tuple(slot for slot in facts.slots if slot.is_claimable)
    if claimable:
        return Train(claimable) if facts.round == 0 else Evaluate(claimable)
    if any(slot.state != "finished" for slot in facts.slots):
        return Wait()
    plan = _plan_next(facts, configuration, explore)
    return Stop() if plan is None else Commit(plan)


def _plan_next(facts: Facts, configuration: Configuration, explore: Explore) -> Plan | None:
    """What comes after a finished round; None after the last generation's last."""
    if configuration.n_offspring and facts.round < configuration.n_evolution_rounds:
        return plan_offspring(facts, configuration)
    if not configuration.wants(facts.generation + 1):
        return None
    return plan_survivors(facts, configuration, explore)
