"""Every number of Algorithm 1 in one frozen value, its two presets, and what makes a study one.

Notation (Cui et al. 2018, Algorithm 1): μ = ``population_size``, λ = ``n_offspring``,
ρ = ``n_parents``, m = ``n_elites``, σ_0 = ``mutation_scale``, K_s = ``n_epochs``,
K_v = ``n_evolution_rounds``, K = ``n_generations``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal, get_args

from optuna_esgd.engine.differences import in_words
from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.annealing import RateSchedule
from optuna_esgd.evolution.back_off import BackOff
from optuna_esgd.evolution.mating import Roulette
from optuna_esgd.evolution.selection import Selection

Preset = Literal["coevolve", "paper"]
ExploreName = Literal["perturb", "resample", "sampler"]
Backend = Literal["batched", "compiled", "native", "rows", "channels_last"]

BACKENDS: tuple[Backend, ...] = get_args(Backend)

# What may differ between two openings of one study: they change how long a run goes on or how it
# is worked off, never what an individual is.
_FREE_FIELDS = frozenset({"n_generations", "max_tries", "lease_seconds"})
# Settings that older studies do not name, with what those were made with.
ADDED_FIELDS: Mapping[str, Any] = {
    "asynchronous": False,
    "selection": "elitist",
    "backend": "batched",
    "rate_schedule": "constant",
    "average_iterates": False,
    "average_steps": False,
    "keep_probability": 0.0,
    "n_auditions": 1,
}
# How names of species begin in ``Configuration.described``, and what keeps a cohort together.
OF_SPECIES = "species "
OF_DIVERSITY = "diversity"

# What older studies do not say of their task.
_ADDED_WORDS = frozenset({"anchor", "loss", "metric"})

PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "paper": {
        "n_epochs": 1,
        "back_off": "step",
        "explore": "resample",
        "inherit_optimizer_state": False,
        "learning_rate_decay": 0.9,
        "rate_schedule": "constant",
        "average_iterates": False,
        "average_steps": False,
        "keep_probability": 0.0,
        "n_auditions": 1,
    },
    "coevolve": {
        "n_epochs": 4,
        "back_off": "best",
        "explore": "perturb",
        "inherit_optimizer_state": True,
        "learning_rate_decay": 1.0,
        "rate_schedule": "constant",
        "average_iterates": True,
        "average_steps": True,
        "keep_probability": 0.2,
        "n_auditions": 4,
    },
}


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """The settings of one run; compared field by field when a study is opened again.

    Attributes:
        population_size: μ, at least 2.
        seed: Root of every random draw.
        n_offspring: λ, bred in each evolution round.
        n_parents: ρ, of each offspring, at most μ.
        n_elites: m, at most μ.
        mutation_scale: σ_0, standard deviation of the first generation's mutations.
        roulette: Sectors of the parents' roulette wheel.
        selection: Who goes on: the m best and a random rest of parents and offspring
            (``"elitist"``), or everybody but the worst quarter, which goes on as copies of the
            best (``"truncation"``, population-based training). The latter has no offspring; it
            also leaves the hyperparameters of those that are no copies as they are.
        n_epochs: K_s, epochs in one SGD step.
        n_evolution_rounds: K_v.
        n_generations: K, or None to go on as long as trials are asked for.
        back_off: See ``evolution.back_off``; with ``"none"`` fitness may get worse.
        explore: Where hyperparameters come from: inherited with a change (``"perturb"``), from
            the whole space (``"resample"``), or proposed by an Optuna sampler (``"sampler"``).
        resample_probability: Chance that an inherited species, or an inherited choice, is drawn
            anew.
        keep_probability: Chance that an individual trains on with the very species and values of
            its birth parent; with ``"perturb"`` only.
        n_auditions: How many sets of species and hyperparameters each founder tries from its
            birth on, for an equal part of K_s each, before it keeps the best of them; 1 where
            there are not several species to choose between, or where a cohort depends on each
            other.
        inherit_optimizer_state: Whether momentum and the like are inherited while the species
            stays the same.
        learning_rate_decay: Factor per generation on both bounds of the range of ``lr``.
        rate_schedule: What ``lr`` does within an SGD step, see
            ``evolution.annealing.rate_factor``.
        average_iterates: Whether after each epoch the mean of the weights it went through is
            scored too, and kept if it is the best point of the SGD step; with ``"best"`` only.
        average_steps: Whether the mean over all epochs of the SGD step so far is one more such
            point, and whoever inherits optimizer state trains on from where its first parent's
            training stood, not from the point that was kept; with ``average_iterates`` only.
        cohort_size: Individuals that train together; a fixed partition of the population, so
            that no number depends on which worker trained whom.
        asynchronous: Whether each cohort goes on by itself, without waiting for the others at
            the end of a generation. The guarantee holds; determinism is given up.
        backend: How cohorts are computed: all rows at once (``"batched"``), the same as one
            compiled function (``"compiled"``) or with gradients by a kernel in C (``"native"``),
            or one row after the other (``"rows"``), with images laid out pixel by pixel
            (``"channels_last"``). They differ in rounding.
        maximize: Direction of the study. Inside, fitness is minimised.
        max_tries: Failures of user code after which a slot keeps its birth weights.
        lease_seconds: How long a claim lives without being renewed.
        described: What else makes a run the same, in words: species, data. Empty where the
            objective chooses.
    """

    population_size: int
    seed: int
    n_offspring: int
    n_parents: int
    n_elites: int
    mutation_scale: float
    roulette: Roulette
    selection: Selection
    n_epochs: int
    n_evolution_rounds: int
    n_generations: int | None
    back_off: BackOff
    explore: ExploreName
    resample_probability: float
    keep_probability: float
    n_auditions: int
    inherit_optimizer_state: bool
    learning_rate_decay: float
    rate_schedule: RateSchedule
    average_iterates: bool
    average_steps: bool
    cohort_size: int
    asynchronous: bool
    maximize: bool
    max_tries: int
    lease_seconds: float
    backend: Backend = "batched"
    described: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse impossible numbers before anything is trained or stored."""
        for one in fields(self):
            object.__setattr__(self, one.name, _plain(one, getattr(self, one.name)))
        mu = self.population_size
        rules: tuple[tuple[str, bool, str], ...] = (
            ("population_size", mu >= 2, "at least 2 (a population coevolves)"),
            (
                "selection",
                self.selection in ("elitist", "truncation"),
                "'elitist' or 'truncation'",
            ),
            ("n_offspring", self.n_offspring >= 0, "0 or more"),
            ("n_parents", 1 <= self.n_parents <= mu, f"between 1 and population_size = {mu}"),
            ("n_elites", 1 <= self.n_elites <= mu, f"between 1 and population_size = {mu}"),
            ("mutation_scale", 0 <= self.mutation_scale < math.inf, "finite and 0 or more"),
            ("roulette", self.roulette in ("rank", "inverse"), "'rank' or 'inverse'"),
            ("n_epochs", self.n_epochs >= 1, "at least 1"),
            ("n_evolution_rounds", self.n_evolution_rounds >= 0, "0 or more"),
            (
                "n_generations",
                self.n_generations is None or self.n_generations >= 1,
                "at least 1, or None",
            ),
            ("back_off", self.back_off in ("step", "best", "none"), "'step', 'best' or 'none'"),
            (
                "explore",
                self.explore in ("perturb", "resample", "sampler"),
                "'perturb', 'resample' or an Optuna sampler",
            ),
            ("resample_probability", 0 <= self.resample_probability <= 1, "in [0, 1]"),
            ("keep_probability", 0 <= self.keep_probability <= 1, "in [0, 1]"),
            (
                "n_auditions",
                self.n_auditions >= 1 and self.n_epochs % self.n_auditions == 0,
                f"at least 1 and a divisor of n_epochs = {self.n_epochs}",
            ),
            ("learning_rate_decay", 0 < self.learning_rate_decay <= 1, "in (0, 1]"),
            (
                "rate_schedule",
                self.rate_schedule in ("constant", "cosine"),
                "'constant' or 'cosine'",
            ),
            (
                "average_iterates",
                self.back_off == "best" or not self.average_iterates,
                f"False unless back_off is 'best' (it is {self.back_off!r})",
            ),
            (
                "average_steps",
                self.average_iterates or not self.average_steps,
                f"False where average_iterates is False (back_off is {self.back_off!r})",
            ),
            ("cohort_size", 1 <= self.cohort_size <= mu, f"between 1 and population_size = {mu}"),
            ("backend", self.backend in BACKENDS, f"one of {BACKENDS}"),
            ("max_tries", self.max_tries >= 1, "at least 1"),
            ("lease_seconds", 0 < self.lease_seconds < math.inf, "finite and more than 0"),
        )
        for name, is_valid, expected in rules + self._rules_of_truncation():
            if not is_valid:
                raise ConfigurationError(
                    f"{name} must be {expected}, got {getattr(self, name)!r}."
                )

    def _rules_of_truncation(self) -> tuple[tuple[str, bool, str], ...]:
        """What population-based training cannot be combined with."""
        is_unguarded = self.is_truncating or self.back_off == "none"
        return (
            (
                "n_offspring",
                not (self.is_truncating and self.n_offspring),
                "0 with selection='truncation'",
            ),
            (
                "asynchronous",
                not (self.asynchronous and is_unguarded),
                "False with selection='truncation' or back_off='none'",
            ),
        )

    @property
    def is_truncating(self) -> bool:
        """Whether the worst quarter goes on as copies of the best."""
        return self.selection == "truncation"

    def wants(self, generation: int) -> bool:
        """Whether a generation, counted from 0, is one of the K."""
        return self.n_generations is None or generation < self.n_generations

    def to_json(self) -> dict[str, Any]:
        """The identity of a run as plain JSON values: what may differ is left out."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE_FIELDS}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Configuration:
        """The configuration a run was made with; what may differ is as little as can be."""
        free = {"n_generations": None, "max_tries": 1, "lease_seconds": 1.0}
        return cls(**{**ADDED_FIELDS, **free, **stored})

    def check_same(self, stored: Mapping[str, Any]) -> None:
        """Refuse to go on with a study made with other settings.

        Raises:
            ConfigurationError: Names every field that differs, with both values.
        """
        theirs, mine = _by_name({**ADDED_FIELDS, **stored}), _by_name(self.to_json())
        differing = [
            name
            for name in {**mine, **theirs}
            if theirs.get(name) != mine.get(name)
            and not (name in _ADDED_WORDS and name not in theirs)
        ]
        if differing:
            details = in_words(theirs, mine, differing)
            raise ConfigurationError(
                f"The study was made with another configuration: {details}. Open it with the same "
                "settings, or use another study_name; populations are never mixed."
            )


_CONFIGURED: Mapping[str, Field[Any]] = {one.name: one for one in fields(Configuration)}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a user sets before the study is known; None stands for "as the preset says".

    See ``Configuration`` for what each number is.
    """

    population_size: int = 16
    preset: Preset = "coevolve"
    seed: int | None = None
    n_offspring: int | None = None
    n_parents: int = 2
    n_elites: int | None = None
    mutation_scale: float = 0.01
    roulette: Roulette = "rank"
    selection: Selection = "elitist"
    n_epochs: int | None = None
    n_evolution_rounds: int = 1
    n_generations: int | None = None
    back_off: BackOff | None = None
    explore: ExploreName | None = None
    resample_probability: float = 0.1
    keep_probability: float | None = None
    n_auditions: int | None = None
    inherit_optimizer_state: bool | None = None
    learning_rate_decay: float | None = None
    rate_schedule: RateSchedule | None = None
    average_iterates: bool | None = None
    average_steps: bool | None = None
    asynchronous: bool = False
    max_tries: int = 3
    lease_seconds: float = 60.0

    def resolve(self) -> dict[str, Any]:
        """Every setting by name: as given, else as the preset has it or as follows from others.

        ``seed`` and ``n_generations`` may stay None: no preset knows them.

        Raises:
            ConfigurationError: The preset is not known, ``population_size`` or ``n_epochs`` is no
                number, or ``keep_probability`` or ``n_auditions`` would do nothing.
        """
        if self.preset not in PRESETS:
            raise ConfigurationError(
                f"preset must be one of {sorted(PRESETS)}, got {self.preset!r}."
            )
        mu: int = _plain(_CONFIGURED["population_size"], self.population_size)
        defaults: dict[str, Any] = {
            **PRESETS[self.preset],
            "n_offspring": 0 if self.selection == "truncation" else 4 * mu,
            "n_elites": max(1, round(0.6 * mu)),
        }
        settings: dict[str, Any] = {
            name: defaults.get(name) if (given := getattr(self, name)) is None else given
            for name in (one.name for one in fields(self))
            if name in _CONFIGURED
        } | {"population_size": mu}
        if self.average_iterates is None:
            settings["average_iterates"] &= settings["back_off"] == "best"
        if self.average_steps is None:
            settings["average_steps"] &= settings["average_iterates"] is True
        for name, given, neutral in (
            ("keep_probability", self.keep_probability, 0),
            ("n_auditions", self.n_auditions, 1),
        ):
            if given is not None and given != neutral and settings["explore"] != "perturb":
                raise ConfigurationError(
                    f"{name} is for explore='perturb', where values are inherited; with "
                    f"explore={settings['explore']!r} it would do nothing, got {given!r}."
                )
        if self.keep_probability is None and self.selection == "truncation":
            settings["keep_probability"] = 0.0  # only copies explore, and those do
        if self.n_auditions is None:
            settings["n_auditions"] = _n_auditions(settings)
        return settings

    def configure(
        self,
        *,
        seed: int,
        cohort_size: int | None,
        maximize: bool,
        described: Mapping[str, str] | None = None,
        backend: Backend | None = None,
    ) -> Configuration:
        """Fill in the preset and what only the study knows.

        Args:
            seed: Used where the settings name none (the study's stored seed, or a fresh one).
            cohort_size: None for the whole population, or one by one if asynchronous.
            maximize: Direction of the study.
            described: See ``Configuration``; None for nothing.
            backend: None for batched.

        Raises:
            ConfigurationError: A number is out of range, or would do nothing.
        """
        settings = self.resolve()
        words = described or {}
        n_species = sum(name.startswith(OF_SPECIES) for name in words)
        if n_species < 2 or OF_DIVERSITY in words:
            if n_species and self.n_auditions not in (None, 1):
                raise ConfigurationError(
                    "n_auditions is for several species, of which founders try more than one, and "
                    "for founders that train apart from each other; with a single species, or "
                    f"with diversity=, it must be 1 or None, got {self.n_auditions!r}."
                )
            settings["n_auditions"] = 1 if self.n_auditions is None else self.n_auditions
        mu = settings["population_size"]
        return Configuration(
            **{**settings, "seed": seed if self.seed is None else self.seed},
            cohort_size=(1 if self.asynchronous else mu) if cohort_size is None else cohort_size,
            maximize=maximize,
            described=dict(described or {}),
            backend="batched" if backend is None else backend,
        )


def _n_auditions(settings: Mapping[str, Any]) -> int:
    """As many as the preset says or fewer, so that they are equal parts of the SGD step.

    Where nothing is inherited, or copies explore only, there is one.
    """
    if settings["explore"] != "perturb" or settings["selection"] == "truncation":
        return 1
    n_epochs: int = _plain(_CONFIGURED["n_epochs"], settings["n_epochs"])
    return max(n for n in range(1, settings["n_auditions"] + 1) if n_epochs % n == 0)


def _by_name(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's values by name, those described in words each by its own."""
    described: Mapping[str, str] = configuration.get("described", {})
    return {k: v for k, v in configuration.items() if k != "described"} | dict(described)


def _plain(declared: Field[Any], value: Any) -> Any:
    """Turn a number of any library into Python's own, by the declared type.

    Raises:
        ConfigurationError: It is not a number of that kind; a bool is none.
    """
    kinds: Mapping[Any, tuple[type | tuple[type, ...], type, str]] = {
        "int": (Integral, int, "a whole number"),
        "int | None": (Integral, int, "a whole number, or None"),
        "float": (Real, float, "a number"),
        "bool": (bool, bool, "True or False"),
    }
    if declared.type not in kinds or (value is None and declared.type == "int | None"):
        return value
    kind, plain, expected = kinds[declared.type]
    if not isinstance(value, kind) or (isinstance(value, bool) and plain is not bool):
        raise ConfigurationError(f"{declared.name} must be {expected}, got {value!r}.")
    return plain(value)


def cohorts(configuration: Configuration, n_individuals: int) -> list[range]:
    """Partition ``n_individuals`` numbers into cohorts of at most ``cohort_size``."""
    size = configuration.cohort_size
    return [range(a, min(a + size, n_individuals)) for a in range(0, n_individuals, size)]


def broods(configuration: Configuration) -> list[range]:
    """Partition the λ offspring of a round into at most as many cohorts as the population has.

    Scoring takes less memory and much less time than training, so it is not divided further: a
    slot costs the database the same, whatever is in it.
    """
    n_offspring = configuration.n_offspring
    n_cohorts = min(
        len(cohorts(configuration, size))
        for size in (configuration.population_size, max(1, n_offspring))
    )
    edges = [at * n_offspring // n_cohorts for at in range(n_cohorts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(edges) if a < b]
