"""A batched rule gives every row what ``torch.optim`` would have given it alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.space import Choices, Value, resample
from optuna_esgd.optim.closure import Closure
from optuna_esgd.optim.rule import Draws, Part, Rule, State, run_step
from optuna_esgd.species import SGD, Adam, AdamW, RMSprop, flatten_state, restore_state
from optuna_esgd.species.base import Species
from tests.species.table import TABLE

N_ROWS, N_WEIGHTS, N_STEPS = 6, 41, 50

BATCHED = [
    pytest.param(name, variant, id=f"{name}-{variant}" if variant else name)
    for name, row in TABLE.items()
    if row.is_batched
    for variant in row.variants
]


def drawn_values(species: Species, seed: int = 0) -> list[dict[str, Value]]:
    """Different values in each row; choices alternate so that all occur."""
    rng = np.random.default_rng(seed)
    return [
        {
            name: range_.values[row % len(range_.values)]
            if isinstance(range_, Choices)
            else resample(range_, rng)
            for name, range_ in species.space.items()
        }
        for row in range(N_ROWS)
    ]


class Given:
    """An evaluator whose losses and gradients are the same wherever the weights are."""

    def __init__(self, gradients: Tensor) -> None:
        self._gradients = gradients

    def gradients(self) -> tuple[Tensor, list[Tensor]]:
        return self.losses(), [self._gradients]

    def losses(self) -> Tensor:
        return torch.ones(len(self._gradients), 1, dtype=self._gradients.dtype)

    def advance(self) -> None:
        """All mini-batches are alike."""


class GivenToOne(Closure):
    """The same for the parameters of one row."""

    def __init__(self, parameters: list[Tensor], gradients: list[Tensor], key: int) -> None:
        self._pairs = list(zip(parameters, gradients, strict=True))
        self.key = torch.tensor(key)

    def __call__(self) -> Tensor:
        for parameter, gradient in self._pairs:
            parameter.grad = gradient
        return self.loss()

    def loss(self) -> Tensor:
        return torch.ones(())

    def advance(self) -> None:
        """All mini-batches are alike."""


def step_given(
    rule: Rule,
    parameters: Tensor,
    gradients: Tensor,
    state: State,
    columns: Mapping[str, Tensor],
    keys: Tensor | None = None,
) -> None:
    """One step of a rule with these gradients."""
    keys = torch.arange(len(parameters)) if keys is None else keys
    draws = Draws(keys.unsqueeze(1), torch.arange(parameters.shape[1]))
    run_step(rule, [Part(parameters, state, columns, draws)], Given(gradients))


class Valley:
    """Evaluations of noisy quadratics, all rows at once; each batch has noise of its own."""

    def __init__(self, parameters: Tensor, draw: Callable[[], Tensor]) -> None:
        self.curvature = torch.linspace(0.1, 2, N_WEIGHTS).to(parameters.dtype)
        self.parameters = parameters
        self.noise = [draw()]
        self._draw = draw
        self._seen: list[tuple[Tensor, Tensor]] = []

    def loss_of(self, x: Tensor, row: int | slice, batch: int) -> Tensor:
        return (x * (x * self.curvature / 2 + self.noise[batch][row])).sum(-1)

    def gradient_of(self, x: Tensor, row: int | slice, batch: int) -> Tensor:
        return x * self.curvature + self.noise[batch][row]

    def gradients(self) -> tuple[Tensor, list[Tensor]]:
        gradients = self.gradient_of(self.parameters, slice(None), -1)
        self._seen.append((gradients, gradients.clone()))
        return self.losses(), [gradients]

    def losses(self) -> Tensor:
        return self.loss_of(self.parameters, slice(None), -1).unsqueeze(1)

    def advance(self) -> None:
        self.noise.append(self._draw())

    def gradients_are_untouched(self) -> bool:
        return all(torch.equal(one, other) for one, other in self._seen)


class ValleyOfOne(Closure):
    """The same evaluations for one row."""

    def __init__(self, valley: Valley, parameter: Tensor, row: int, key: int) -> None:
        self._valley, self._parameter, self._row = valley, parameter, row
        self._batch = 0
        self.key = torch.tensor(key)

    def __call__(self) -> Tensor:
        x = self._parameter.detach()
        self._parameter.grad = self._valley.gradient_of(x, self._row, self._batch)
        return self.loss()

    def loss(self) -> Tensor:
        return self._valley.loss_of(self._parameter.detach(), self._row, self._batch)

    def advance(self) -> None:
        self._batch += 1


class Race:
    """The same problem once batched and once row by row."""

    def __init__(self, species: Species, dtype: torch.dtype, seed: int = 0) -> None:
        assert species.batched is not None
        self.species, self.update = species, species.batched
        self.generator = torch.Generator().manual_seed(seed)
        self.values = drawn_values(species, seed)
        # Slices of wider rows, as in the population matrix.
        wide = torch.randn(N_ROWS, N_WEIGHTS + 7, generator=self.generator, dtype=torch.float64)
        self.parameters = wide.to(dtype)[:, :N_WEIGHTS]
        self.rows = [row.clone().requires_grad_() for row in self.parameters]
        self.optimizers = [
            species.build([row], values)
            for row, values in zip(self.rows, self.values, strict=True)
        ]
        self.state = self.update.init_state(self.parameters)
        self.columns = species.columns(self.values, self.parameters)

    def draw(self) -> Tensor:
        noise = torch.randn(N_ROWS, N_WEIGHTS, generator=self.generator, dtype=torch.float64)
        return noise.to(self.parameters.dtype)

    def run(self, n_steps: int) -> Race:
        places = torch.arange(N_WEIGHTS)
        for number in range(n_steps):
            keys = torch.arange(N_ROWS) * 1000 + number
            valley = Valley(self.parameters, self.draw)
            part = Part(self.parameters, self.state, self.columns, Draws(keys[:, None], places))
            run_step(self.update, [part], valley)
            assert valley.gradients_are_untouched()
            for row, optimizer in enumerate(self.optimizers):
                closure = ValleyOfOne(valley, self.rows[row], row, int(keys[row]))
                optimizer.step(closure)
        return self

    def torchs(self) -> Tensor:
        return torch.stack([row.detach() for row in self.rows])


@pytest.mark.parametrize(("name", "variant"), BATCHED)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 4e-6)])
def test_batched_equals_one_by_one(
    name: str, variant: Mapping[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    race = Race(TABLE[name].make(**variant), dtype).run(N_STEPS)
    scale = race.torchs().abs().clamp_min(1)
    assert ((race.parameters - race.torchs()) / scale).abs().max() < tolerance
    assert race.parameters.dtype == dtype


@pytest.mark.parametrize(("name", "variant"), BATCHED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_worse_than_torchs(
    name: str, variant: Mapping[str, Any], dtype: torch.dtype
) -> None:
    """Both are compared with the same run in float64."""
    rule = TABLE[name].make(**variant).batched
    assert rule is not None
    if not rule.uses_gradients:
        pytest.skip("what is kept and what not is another run in another precision")
    takes_eps = "eps" in rule.hyperparameters and name != "Adagrad"
    if dtype == torch.float16 and "eps" not in variant and takes_eps:
        variant = {**variant, "eps": 1e-3}  # 1e-8 is 0 in float16, in torch too
    species = TABLE[name].make(**variant)
    n_steps = 10
    half = Race(species, dtype).run(n_steps)
    exact = Race(species, torch.float64)
    exact.parameters.copy_(Race(species, dtype).parameters)
    exact.generator.set_state(Race(species, dtype).generator.get_state())
    for row, start in zip(exact.rows, exact.parameters, strict=True):
        row.data.copy_(start)
    exact.run(n_steps)
    ours = (half.parameters.double() - exact.parameters).abs().mean()
    torchs = (half.torchs().double() - exact.parameters).abs().mean()
    assert ours <= 1.2 * torchs + 1e-3
    assert half.parameters.isfinite().all()


@pytest.mark.parametrize(("name", "variant"), BATCHED)
def test_state_has_torchs_names_and_values(name: str, variant: Mapping[str, Any]) -> None:
    race = Race(TABLE[name].make(**variant), torch.float64).run(3)
    for row in range(N_ROWS):
        ours = race.update.row_state(race.state, row)
        theirs = flatten_state(race.optimizers[row])
        for key, tensor in theirs.items():
            stored = ours[key.removeprefix("0.")]
            torch.testing.assert_close(
                stored.view(tensor.shape), tensor, rtol=1e-6, atol=1e-12, check_dtype=False
            )


@pytest.mark.parametrize(("name", "variant"), BATCHED)
def test_rows_carry_on_from_stored_state_bit_by_bit(name: str, variant: Mapping[str, Any]) -> None:
    race = Race(TABLE[name].make(**variant), torch.float32).run(4)
    stored = [race.update.row_state(race.state, row) for row in range(N_ROWS)]
    order = list(reversed(range(N_ROWS)))
    parameters = race.parameters[order].clone()
    state = race.update.init_state(parameters)
    for position, row in enumerate(order):
        race.update.write_row_state(state, position, stored[row])
    columns = race.species.columns([race.values[row] for row in order], parameters)
    for _ in range(3):
        gradients, keys = race.draw(), torch.tensor(order)
        step_given(race.update, parameters, gradients[order], state, columns, keys)
        step_given(race.update, race.parameters, gradients, race.state, race.columns)
    assert torch.equal(parameters, race.parameters[order])
    # What was stored is a copy: training on has not changed it.
    again = race.update.init_state(parameters)
    race.update.write_row_state(again, 0, stored[0])
    assert all(torch.equal(again[key][0], stored[0][key]) for key in again)


@pytest.mark.parametrize(("name", "variant"), BATCHED)
def test_a_rows_result_does_not_depend_on_its_company(
    name: str, variant: Mapping[str, Any]
) -> None:
    race = Race(TABLE[name].make(**variant), torch.float32)
    alone = race.parameters[2:3].clone()
    state = race.update.init_state(alone)
    columns = race.species.columns([race.values[2]], alone)
    for _ in range(5):
        gradients = race.draw()
        step_given(race.update, race.parameters, gradients, race.state, race.columns)
        step_given(race.update, alone, gradients[2:3], state, columns, torch.tensor([2]))
    torch.testing.assert_close(alone[0], race.parameters[2], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "variant"), BATCHED)
def test_a_diverged_row_stays_alone(name: str, variant: Mapping[str, Any]) -> None:
    race = Race(TABLE[name].make(**variant), torch.float32)
    gradients = race.draw()
    gradients[1] = float("inf")
    for _ in range(2):
        step_given(race.update, race.parameters, gradients, race.state, race.columns)
    others = [row for row in range(N_ROWS) if row != 1]
    assert race.parameters[others].isfinite().all()


@pytest.mark.parametrize(("name", "variant"), BATCHED)
def test_a_row_can_be_carried_on_alone_and_batched_again(
    name: str, variant: Mapping[str, Any]
) -> None:
    species = TABLE[name].make(**variant)
    assert species.batched is not None
    update, values = species.batched, drawn_values(species)[:1]
    shapes = {0: (3, 4), 1: (), 2: (0, 2), 3: (5,)}
    torch.manual_seed(0)
    flat = torch.randn(1, 18, dtype=torch.float64)
    gradients = torch.randn(6, 18, dtype=torch.float64)
    expected, together = flat.clone(), flat.clone()
    reference, state = update.init_state(flat), update.init_state(flat)
    columns = species.columns(values, flat)
    for gradient in gradients:
        step_given(update, expected, gradient[None], reference, columns)

    for gradient in gradients[:2]:
        step_given(update, together, gradient[None], state, columns)

    def split(row: Tensor) -> list[Tensor]:
        parts = row.split([math.prod(shape) for shape in shapes.values()])
        return [part.view(shape) for part, shape in zip(parts, shapes.values(), strict=True)]

    alone = [part.clone().requires_grad_() for part in split(together[0])]
    optimizer = species.build(alone, values[0])
    restore_state(optimizer, update.split_row_state(update.row_state(state, 0), shapes))
    for gradient in gradients[2:4]:
        optimizer.step(GivenToOne(alone, split(gradient), key=0))

    together = torch.cat([parameter.detach().view(-1) for parameter in alone])[None]
    state = update.init_state(together)
    stored = update.join_row_state(flatten_state(optimizer), shapes)
    update.write_row_state(state, 0, stored)
    for gradient in gradients[4:]:
        step_given(update, together, gradient[None], state, columns)
    torch.testing.assert_close(together, expected, rtol=1e-9, atol=1e-12)


def test_missing_state_starts_afresh() -> None:
    species = Adam()
    parameters = torch.randn(2, 3)
    update = species.batched
    assert update is not None
    state = update.init_state(parameters)
    columns = species.columns([TABLE["Adam"].others | {"lr": 0.1}] * 2, parameters)
    step_given(update, parameters, torch.ones(2, 3), state, columns)
    update.write_row_state(state, 1, {"exp_avg": torch.full((3,), 7.0)})
    assert state["exp_avg"][1].eq(7).all()
    assert not state["exp_avg_sq"][1].any()
    assert state["step"].tolist() == [[1], [0]]


@pytest.mark.parametrize(
    "species",
    [
        SGD(dampening=0.5),
        SGD(maximize=True),
        SGD(dampening=[0.0, 0.1]),
        Adam(amsgrad=[True, False]),
        Adam(maximize=True),
        Adam(differentiable=True),
        RMSprop(centered=True),
        Species(torch.optim.SGD, lr=0.1),
    ],
    ids=repr,
)
def test_settings_beyond_the_rule_go_row_by_row(species: Species) -> None:
    assert species.batched is None
    with pytest.raises(ConfigurationError, match="no rule for many"):
        species.columns([], torch.zeros(1, 1))


@pytest.mark.parametrize(
    "species", [Adam(fused=True), Adam(foreach=False), SGD(dampening=0), AdamW(maximize=False)]
)
def test_settings_that_change_nothing_stay_batched(species: Species) -> None:
    assert species.batched is not None


def test_columns_hold_searched_fixed_and_default_values() -> None:
    species = Adam(beta1=0.8, weight_decay=0.0)
    values = [{"lr": 0.1, "beta2": 0.99}, {"lr": 0.2, "beta2": 0.999}]
    columns = species.columns(values, torch.zeros(2, 5))
    assert {name: column.flatten().tolist() for name, column in columns.items()} == {
        "lr": [0.1, 0.2],
        "beta1": [0.8, 0.8],
        "beta2": [0.99, 0.999],
        "eps": [1e-8, 1e-8],
    }
    assert all(column.shape == (2, 1) for column in columns.values())


def test_a_learning_rate_of_zero_changes_nothing() -> None:
    for name, row in TABLE.items():
        species = row.make(**{row.rate: 0.0})
        if species.batched is None:
            continue
        parameters = torch.ones(1, 4)
        values = [dict(row.others)]
        state = species.batched.init_state(parameters)
        columns = species.columns(values, parameters)
        for gradients in (torch.zeros(1, 4), torch.ones(1, 4)):
            step_given(species.batched, parameters, gradients, state, columns)
        assert parameters.eq(1).all(), name
