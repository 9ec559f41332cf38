"""Plans, computed from committed facts: founders, offspring, survivors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from optuna_esgd.engine.configuration import Configuration, broods, cohorts
from optuna_esgd.engine.individual import Birth, Facts, Individual, Plan, Reference
from optuna_esgd.engine.ports import Explore
from optuna_esgd.evolution.annealing import mutation_scale
from optuna_esgd.evolution.fitness import mean_of_best
from optuna_esgd.evolution.mating import draw_parents, roulette_weights
from optuna_esgd.evolution.randomness import stream
from optuna_esgd.evolution.selection import select_survivors, truncate


def plan_founders(configuration: Configuration, explore: Explore) -> Plan:
    """Lay out generation 0: μ founders."""
    founders = [
        Individual(reference=Reference(0, 0, number), birth="founder")
        for number in range(configuration.population_size)
    ]
    return _sgd_step(configuration, 0, founders, {}, explore)


def plan_offspring(facts: Facts, configuration: Configuration) -> Plan:
    """Lay out the next evolution round: λ offspring of parents drawn from the current pool."""
    pool = current_pool(facts, configuration)
    numbers = range(configuration.n_offspring)
    references = [Reference(facts.generation, facts.round + 1, number) for number in numbers]
    return Plan(
        generation=facts.generation,
        round=facts.round + 1,
        individuals=breed_offspring(references, pool, configuration),
        cohorts=tuple(tuple(brood) for brood in broods(configuration)),
    )


def breed_offspring(
    references: Iterable[Reference], pool: Sequence[Individual], configuration: Configuration
) -> tuple[Individual, ...]:
    """Offspring of parents drawn from a pool by roulette wheel, each by its own stream."""
    weights = roulette_weights([one.fitness_or_inf for one in pool], configuration.roulette)
    offspring = []
    for reference in references:
        rng = stream(configuration.seed, *reference, "parents")
        drawn = draw_parents(weights, n_parents=configuration.n_parents, rng=rng)
        offspring.append(
            Individual(
                reference=reference,
                birth="recombination",
                parents=tuple(pool[index].reference for index in drawn),
                mutation_scale=mutation_scale(configuration.mutation_scale, reference.generation),
            )
        )
    return tuple(offspring)


def plan_survivors(facts: Facts, configuration: Configuration, explore: Explore) -> Plan:
    """Lay out the next generation's SGD step: the survivors are its births."""
    generation = facts.generation + 1
    pool = current_pool(facts, configuration)
    # Without an evolution round nobody was selected: everyone goes on as an elite.
    n_elites = configuration.n_elites if facts.round else configuration.population_size
    origins = list(range(len(pool)))
    if configuration.is_truncating:
        rng = stream(configuration.seed, facts.generation, "truncation")
        origins = truncate([one.fitness_or_inf for one in pool], rng=rng)
    births = [
        birth_of(
            pool[origin],
            Reference(generation, 0, number),
            is_elite=number < n_elites and origin == number,
        )
        for number, origin in enumerate(origins)
    ]
    parents = {one.reference: one for one in facts.individuals}
    plan = _sgd_step(configuration, generation, births, parents, explore)
    born = [pool[origin].fitness_or_inf for origin in origins]
    means = mean_of_best(born, configuration.n_elites)
    return replace(plan, certificate=tuple(float(mean) for mean in means))


def current_pool(facts: Facts, configuration: Configuration) -> list[Individual]:
    """The μ individuals alive after the last finished round, elites first.

    Computed anew from the facts each time, round by round, so that nothing but outcomes is
    stored: the survivors of round v - 1 and the offspring of round v compete for μ places.
    """
    pool = list(facts.in_round(0))
    for round_ in range(1, facts.round + 1):
        candidates = pool + list(facts.in_round(round_))
        survivors = select_survivors(
            [one.fitness_or_inf for one in candidates],
            n_survivors=configuration.population_size,
            n_elites=configuration.n_elites,
            rng=stream(configuration.seed, facts.generation, round_, "survivors"),
        )
        pool = [candidates[index] for index in survivors]
    return pool


def birth_of(survivor: Individual, reference: Reference, *, is_elite: bool) -> Individual:
    """Turn a survivor into a birth of the next generation."""
    is_offspring = survivor.reference.round > 0
    birth: Birth = "recombination" if is_offspring else "elite" if is_elite else "survivor"
    return Individual(
        reference=reference,
        birth=birth,
        origin=survivor.reference,
        parents=survivor.parents if is_offspring else (survivor.reference,),
        birth_fitness=survivor.fitness,
    )


def _sgd_step(
    configuration: Configuration,
    generation: int,
    births: list[Individual],
    parents: dict[Reference, Individual],
    explore: Explore,
) -> Plan:
    """Equip the births and partition them into cohorts."""
    return Plan(
        generation=generation,
        round=0,
        individuals=equip(births, parents, configuration, explore),
        cohorts=tuple(tuple(c) for c in cohorts(configuration, len(births))),
    )


def equip(
    births: Sequence[Individual],
    parents: Mapping[Reference, Individual],
    configuration: Configuration,
    explore: Explore,
) -> tuple[Individual, ...]:
    """Give births their species and hyperparameters, and say whether momentum is inherited."""
    explored = iter(explore([one for one in births if not goes_on(one, configuration)], parents))
    equipped = []
    for birth in births:
        if goes_on(birth, configuration):
            before = parents[birth.parents[0]]
            species, hyperparameters = before.species, before.hyperparameters
        else:
            species, hyperparameters = next(explored)
        source = trained_ancestor(birth, parents)
        inherits = source is not None and configuration.inherit_optimizer_state
        equipped.append(
            replace(
                birth,
                species=species,
                hyperparameters=hyperparameters,
                inherits_optimizer_state=inherits
                and source is not None
                and species == source.species,
            )
        )
    return tuple(equipped)


def goes_on(birth: Individual, configuration: Configuration) -> bool:
    """Whether it trains on as it did: with truncation, only copies explore."""
    return configuration.is_truncating and birth.birth == "elite"


def trained_ancestor(
    birth: Individual, parents: Mapping[Reference, Individual]
) -> Individual | None:
    """Follow first parents to the individual that trained: offspring carry no species."""
    ancestor = birth
    while ancestor.first_parent is not None and (
        ancestor is birth or ancestor.reference.round > 0
    ):
        ancestor = parents[ancestor.first_parent]
    return None if ancestor is birth else ancestor
