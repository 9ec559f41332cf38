"""What individuals start from: new weights, a survivor's, or a recombination bred again."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from optuna_esgd.engine.configuration import Configuration
from optuna_esgd.engine.individual import Individual, Reference
from optuna_esgd.engine.snapshot import Outcome, Snapshot
from optuna_esgd.evolution.randomness import derive_seed
from optuna_esgd.genome.breeding import breed
from optuna_esgd.genome.codec import decode, decode_row, encode_row
from optuna_esgd.genome.layout import Layout
from optuna_esgd.genome.matrix import Matrix
from optuna_esgd.genome.statistics import has_running_statistics
from optuna_esgd.operators.mutation import Landscape, Mutation
from optuna_esgd.trainer.seeding import seeded

_logger = logging.getLogger(__name__)

_REMEMBERED_BYTES = 512 * 2**20
_REMEMBERED_PLANS = 10_000


class Ancestors(Protocol):
    """Those that individuals descend from; the part of ``engine.ports.Population`` they need."""

    def individuals(self, *, generation: int | None = None) -> Sequence[Individual]:
        """All individuals of a generation."""
        ...

    def read_weights(self, reference: Reference) -> Snapshot:
        """The weights an individual ended with."""
        ...

    def read_optimizer_state(self, reference: Reference) -> Snapshot | None:
        """The optimizer state it ended with; None if it has none."""
        ...


class Births:
    """Makes the starting points of individuals, bit by bit the same on every worker.

    An offspring is never stored. Who needs it (to score it, and again to train it if it survived)
    breeds it from its parents' stored weights and its own random stream.

    Args:
        ancestors: Where parents' weights are read.
        configuration: Seed and mutation scale.
        layout: The model's layout.
        build_model: Makes a freshly initialised model.
        calibrate: Re-estimates running statistics of a bred model in place.
        anchor: Weights that founders are perturbed copies of; founder 0 is an exact copy.
        device: Where the rows are wanted.
        mutation: What mutates offspring instead of Gaussian noise, which founders get always; and
            the landscape it asks.
    """

    def __init__(
        self,
        ancestors: Ancestors,
        configuration: Configuration,
        *,
        layout: Layout,
        build_model: Callable[[], nn.Module],
        calibrate: Callable[[nn.Module], None],
        anchor: Mapping[str, Tensor] | None,
        device: torch.device,
        mutation: tuple[Mutation, Landscape] | None = None,
    ) -> None:
        self._ancestors = ancestors
        self._configuration = configuration
        self._layout = layout
        self._build_model = build_model
        self._calibrate = calibrate
        self._anchor = anchor
        self._device = device
        self._mutation = mutation
        self._remembered = _RememberedRows()
        self._planned: dict[Reference, Individual] = {}
        self._trained_here: dict[Reference, tuple[str, Outcome]] = {}
        self._bred_model: nn.Module | None = None

    def weights(self, individuals: Sequence[Individual]) -> Matrix:
        """(individuals, ...) the weights each of them starts from, in their order."""
        matrix = Matrix.zeros(self._layout, len(individuals), self._device)
        bred = [(row, one) for row, one in enumerate(individuals) if _is_bred(one)]
        for row, one in enumerate(individuals):
            if one.birth == "founder":
                self._write_founder(matrix, row, one)
            elif not _is_bred(one):
                self._write_stored(matrix, row, _origin(one))
        if len(bred) == len(individuals):
            return self._bred([self._offspring_of(one) for _, one in bred], out=matrix)
        if bred:
            offspring = self._bred([self._offspring_of(one) for _, one in bred])
            matrix.copy_rows(offspring, list(range(len(bred))), [row for row, _ in bred])
        return matrix

    def optimizer_state(self, individual: Individual) -> dict[str, Tensor]:
        """The inherited optimizer state; empty where training starts afresh."""
        if not individual.inherits_optimizer_state or individual.first_parent is None:
            return {}
        return self.read_optimizer_state(self._trained(individual.first_parent))

    def read_optimizer_state(self, reference: Reference) -> dict[str, Tensor]:
        """The optimizer state an individual ended with; empty if it kept none."""
        own = self._own(reference)
        snapshot = (
            self._ancestors.read_optimizer_state(reference) if own is None else own.optimizer_state
        )
        return {} if snapshot is None else decode(snapshot.manifest, snapshot.payload)

    def remember(self, generation: int, outcomes: Sequence[Outcome], *, worker: str) -> None:
        """Keep what this worker is about to store, so that it need not read it again.

        Args:
            generation: Whose SGD step this was; the generation before is kept as well.
            outcomes: With weights, of individuals of round 0.
            worker: By which name the slot is claimed: it tells whether these outcomes were stored.
        """
        for old in [old for old in self._trained_here if old.generation < generation - 1]:
            del self._trained_here[old]
        for outcome in outcomes:
            kept = (outcome.weights, outcome.optimizer_state)
            n_bytes = sum(len(one.payload) for one in kept if one is not None)
            if n_bytes * len(outcomes) <= _REMEMBERED_BYTES // 2:
                reference = Reference(generation, 0, outcome.number)
                self._trained_here[reference] = (worker, outcome)

    def forget(self) -> None:
        """Read everything again: what was learned here may not be what was stored."""
        self._trained_here.clear()
        self._planned.clear()
        self._remembered = _RememberedRows()

    def stand(
        self, individuals: Sequence[Individual], score: Callable[[Matrix], list[float]]
    ) -> list[Outcome]:
        """Finish individuals as they were born, because working on them keeps failing.

        Founders have no fitness yet and are scored. Whoever cannot be scored counts as diverged,
        as do offspring, which nobody will miss.
        """
        if individuals[0].reference.round > 0:
            return [Outcome(number=one.reference.number, fitness=math.inf) for one in individuals]
        weights = self.weights(individuals)
        known = [one.birth_fitness for one in individuals if one.birth_fitness is not None]
        scores = known if len(known) == len(individuals) else _try(score, weights)
        return [
            Outcome(
                number=one.reference.number,
                fitness=scores[row],
                birth_fitness=scores[row] if one.birth_fitness is None else None,
                weights=snapshot_row(weights, row),
            )
            for row, one in enumerate(individuals)
        ]

    def _write_founder(self, matrix: Matrix, row: int, founder: Individual) -> None:
        seed, number = self._configuration.seed, founder.reference.number
        if self._anchor is None:
            with seeded(derive_seed(seed, 0, number, "founder")):
                matrix.take_from(self._build_model(), row)
            return
        anchor = Matrix.zeros(self._layout, 1, self._device)
        anchor.write_row(0, self._anchor)
        if number > 0:
            scale = self._configuration.mutation_scale
            anchor = breed(
                anchor, [[0]], scales=[scale], seeds=[derive_seed(seed, 0, number, "founder")]
            )
            self._calibrate_rows(anchor)
        matrix.copy_rows(anchor, [0], [row])

    def _offspring_of(self, birth: Individual) -> Individual:
        """The offspring a birth starts from; an offspring itself as it is."""
        if birth.reference.round > 0:
            return birth
        return self._individual(_origin(birth))

    def _bred(self, offspring: Sequence[Individual], out: Matrix | None = None) -> Matrix:
        """Breed offspring from their parents, which may be bred themselves (K_v > 1)."""
        parents = list(dict.fromkeys(ref for one in offspring for ref in one.parents))
        pool = self._pool(parents)
        rows = {reference: row for row, reference in enumerate(parents)}
        scales = [one.mutation_scale for one in offspring]
        seeds = [
            derive_seed(self._configuration.seed, *one.reference, "mutation") for one in offspring
        ]
        bred = breed(
            pool,
            [[rows[reference] for reference in one.parents] for one in offspring],
            scales=scales if self._mutation is None else [0.0] * len(offspring),
            seeds=seeds,
            out=out,
        )
        if self._mutation is not None:
            self._mutate_rows(bred, scales, seeds, *self._mutation)
        self._calibrate_rows(bred)
        return bred

    def _pool(self, references: Sequence[Reference]) -> Matrix:
        pool = Matrix.zeros(self._layout, len(references), self._device)
        bred = [(row, ref) for row, ref in enumerate(references) if ref.round > 0]
        for row, reference in enumerate(references):
            if reference.round == 0:
                self._write_stored(pool, row, reference)
        if bred:
            offspring = self._bred([self._individual(ref) for _, ref in bred])
            pool.copy_rows(offspring, list(range(len(bred))), [row for row, _ in bred])
        return pool

    def _write_stored(self, matrix: Matrix, row: int, reference: Reference) -> None:
        """Read the weights of an individual that has trained."""
        if self._remembered.copy_to(reference, matrix, row):
            return
        own = self._own(reference)
        snapshot = None if own is None else own.weights
        if snapshot is None:
            snapshot = self._ancestors.read_weights(reference)
        decode_row(snapshot.manifest, snapshot.payload, matrix, row)
        self._remembered.put(reference, matrix, row)

    def _calibrate_rows(self, matrix: Matrix) -> None:
        """Give averaged weights running statistics of their own, where the model has any."""
        model = self._model_for_bred()
        if not has_running_statistics(model):
            return
        for row in range(matrix.n_rows):
            matrix.load_into(model, row)
            with seeded(self._configuration.seed):
                self._calibrate(model)
            matrix.take_from(model, row)

    def _mutate_rows(
        self,
        matrix: Matrix,
        scales: Sequence[float],
        seeds: Sequence[int],
        mutation: Mutation,
        landscape: Landscape,
    ) -> None:
        """Mutate one by one, so that what an offspring is depends on itself alone."""
        model = self._model_for_bred()
        for row, (scale, seed) in enumerate(zip(scales, seeds, strict=True)):
            if scale > 0:
                matrix.load_into(model, row)
                mutation.mutate(model, scale, landscape, seed=seed)
                matrix.take_from(model, row)

    def _model_for_bred(self) -> nn.Module:
        """A model that bred weights are loaded into, one row after the other."""
        if self._bred_model is None:
            with seeded(self._configuration.seed):
                self._bred_model = self._build_model().to(self._device)
        return self._bred_model

    def _individual(self, reference: Reference) -> Individual:
        """How an individual was planned; for what became of it, ask the store.

        A generation is read once, not once for each of its offspring that survived.
        """
        if reference not in self._planned:
            self._read_generation(reference.generation)
        return self._planned[reference]

    def _read_generation(self, generation: int) -> None:
        self.learn(self._ancestors.individuals(generation=generation))

    def learn(self, members: Sequence[Individual]) -> None:
        """Know how individuals were planned, and how they ended, without reading it."""
        if len(self._planned) > _REMEMBERED_PLANS:
            self._planned.clear()
        self._planned |= {one.reference: one for one in members}

    def _own(self, reference: Reference) -> Outcome | None:
        """How this worker ended an individual, if that is how it stands in the store."""
        worker, outcome = self._trained_here.get(reference, ("", None))
        if outcome is None:
            return None
        if self._individual(reference).fitness is None:
            self._read_generation(reference.generation)
        stands = self._individual(reference)
        return outcome if stands.worker == worker and stands.is_stored else None

    def _trained(self, reference: Reference) -> Reference:
        """Follow first parents from an offspring to the individual that trained."""
        while reference.round > 0:
            reference = self._individual(reference).parents[0]
        return reference


class _RememberedRows:
    """Weights this worker has read (and checked) lately, so that it need not read them again."""

    def __init__(self) -> None:
        self._rows: OrderedDict[Reference, Matrix] = OrderedDict()

    def put(self, reference: Reference, matrix: Matrix, row: int) -> None:
        copy = matrix.rows(range(row, row + 1)).clone()
        self._rows[reference] = copy
        self._rows.move_to_end(reference)
        while len(self._rows) * copy.n_bytes > _REMEMBERED_BYTES:
            self._rows.popitem(last=False)

    def copy_to(self, reference: Reference, matrix: Matrix, row: int) -> bool:
        source = self._rows.get(reference)
        if source is None:
            return False
        matrix.rows(range(row, row + 1)).copy_(source)
        return True


def snapshot_row(weights: Matrix, row: int) -> Snapshot:
    """A row as the bytes that are stored."""
    return Snapshot(*encode_row(weights, row))


def offspring_outcomes(
    offspring: Sequence[Individual],
    scores: Sequence[float],
    best_fitness: float,
    weights: Matrix,
    mutation: Mutation | None = None,
) -> list[Outcome]:
    """How a scored cohort of offspring is recorded.

    Only fitness is kept: who survives is bred again. The exception is the best of the cohort, if
    it beats everyone of the rounds before: its weights may be the run's result. Nothing here
    depends on which cohort was scored first. What the mutation asked is charged once, however
    often an offspring is bred.
    """
    n_gradients = 0 if mutation is None else mutation.n_gradients
    n_evaluations = 0 if mutation is None else mutation.n_evaluations
    winner = min(range(len(scores)), key=scores.__getitem__)
    return [
        Outcome(
            number=one.reference.number,
            fitness=scores[row],
            n_gradients=n_gradients,
            n_evaluations=1 + n_evaluations,
            weights=snapshot_row(weights, row)
            if row == winner and scores[row] < best_fitness
            else None,
        )
        for row, one in enumerate(offspring)
    ]


def _try(score: Callable[[Matrix], list[float]], weights: Matrix) -> list[float]:
    """Score all rows; if that raises too, all count as diverged."""
    try:
        return score(weights)
    except Exception:
        _logger.exception("Founders whose training keeps failing cannot be scored either.")
        return [math.inf] * weights.n_rows


def _is_bred(individual: Individual) -> bool:
    return individual.birth == "recombination"


def _origin(individual: Individual) -> Reference:
    if individual.origin is None:
        raise ValueError(f"Individual {individual.reference} has no origin.")
    return individual.origin
