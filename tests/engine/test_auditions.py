from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from optuna_esgd.engine.auditions import candidates
from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.explore import ExploreSpaces
from optuna_esgd.engine.individual import Individual
from optuna_esgd.engine.planning import plan_founders
from tests.engine.configurations import configurations
from tests.engine.fakes import SPACES


def founders(configuration: Configuration) -> tuple[Individual, ...]:
    return plan_founders(configuration, ExploreSpaces(configuration, SPACES)).individuals


@given(configurations(explore="perturb"), st.integers(0, 5))
def test_candidates_are_those_of_a_larger_population(
    configuration: Configuration, audition: int
) -> None:
    mu = configuration.population_size
    planned = founders(configuration)
    larger = founders(replace(configuration, population_size=mu * (audition + 1)))[-mu:]
    found = candidates(planned, configuration, SPACES, audition=audition)
    assert [one.reference for one in found] == [one.reference for one in planned]
    assert [(one.species, one.hyperparameters) for one in found] == [
        (one.species, one.hyperparameters) for one in larger
    ]
    if audition == 0:
        assert tuple(found) == planned


@given(configurations(explore="perturb"), st.data())
def test_what_a_founder_tries_depends_on_itself_alone(
    configuration: Configuration, data: st.DataObject
) -> None:
    everyone = candidates(founders(configuration), configuration, SPACES, audition=2)
    chosen = data.draw(st.permutations(everyone))[:2]
    changed = [replace(one, species="another", hyperparameters={}) for one in chosen]
    assert candidates(changed, configuration, SPACES, audition=2) == chosen
