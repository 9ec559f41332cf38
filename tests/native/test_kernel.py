"""Kernels against plain PyTorch in double precision, and what their numbers do not depend on."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own abbreviation)
from torch import Tensor, nn

from optuna_esgd.native.chain import read_loss
from optuna_esgd.native.source import Registers
from tests.native.builds import make_kernel, needs_compiler, reference, rows_of
from tests.native.one_kernel import digest

pytestmark = needs_compiler

N_EXAMPLES, N_ROWS = 60, 3
KEYS = [0, 3, -(2**62) + 12345]

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "one layer": lambda: nn.Linear(13, 5),
    "one output": lambda: nn.Sequential(nn.Linear(13, 7), nn.Tanh(), nn.Linear(7, 1)),
    "without biases": lambda: nn.Sequential(
        nn.Linear(13, 17, bias=False), nn.Sigmoid(), nn.Linear(17, 5, bias=False)
    ),
    "deep": lambda: nn.Sequential(
        nn.Linear(13, 33),
        nn.Tanh(),
        nn.Sequential(nn.Linear(33, 16), nn.SiLU(), nn.Linear(16, 40)),
        nn.GELU(),
        nn.Linear(40, 5),
    ),
    "relu": lambda: nn.Sequential(nn.Linear(13, 64), nn.ReLU(), nn.Linear(64, 10)),
    "leaky relu": lambda: nn.Sequential(nn.Linear(13, 9), nn.LeakyReLU(0.2), nn.Linear(9, 5)),
    "elu": lambda: nn.Sequential(nn.Linear(13, 9), nn.ELU(1.5), nn.Linear(9, 5)),
    "gelu by tanh": lambda: nn.Sequential(
        nn.Linear(13, 9), nn.GELU(approximate="tanh"), nn.Linear(9, 5)
    ),
    "activated outputs": lambda: nn.Sequential(nn.Linear(13, 20), nn.Linear(20, 5), nn.Sigmoid()),
    "wide": lambda: nn.Sequential(nn.Linear(13, 130), nn.Tanh(), nn.Linear(130, 70)),
}
LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "bce_with_logits": F.binary_cross_entropy_with_logits,
}
REGISTERS = [None, Registers(8, 16), Registers(4, 16), Registers(4, 32)]


def make_examples(n_out: int, loss: str, n_in: int = 13) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(N_EXAMPLES, n_in, generator=generator)
    if loss == "cross_entropy":
        return inputs, torch.randint(n_out, (N_EXAMPLES,), generator=generator)
    return inputs, torch.rand(N_EXAMPLES, n_out, generator=generator)


def draw_numbers(batch_size: int, n_rows: int = N_ROWS) -> Tensor:
    generator = torch.Generator().manual_seed(batch_size)
    orders = [torch.randperm(N_EXAMPLES, generator=generator) for _ in range(n_rows)]
    return torch.stack(orders)[:, :batch_size]


def check(
    build: Callable[[], nn.Module],
    loss: str,
    batch_size: int,
    usual_size: int,
    registers: Registers | None = None,
) -> None:
    torch.manual_seed(3)
    weights, model = rows_of(build, N_ROWS), build()
    kernel = make_kernel(model, loss, usual_size, registers)  # type: ignore[arg-type]
    n_out = model(torch.zeros(1, 13)).shape[1]
    inputs, targets = make_examples(n_out, loss)
    numbers, keys = draw_numbers(batch_size), torch.tensor(KEYS)
    gradients = torch.full_like(weights, torch.nan)
    losses = kernel.train(weights, inputs, targets, numbers, gradients, keys)
    without = kernel.train(weights, inputs, targets, numbers, None, keys)
    assert torch.equal(losses, without)
    for row in range(N_ROWS):
        mine = numbers[row]
        expected_loss, expected = reference(
            build(), LOSSES[loss], weights[row], inputs[mine], targets[mine], KEYS[row]
        )
        largest = float(expected.abs().max())
        assert float(losses[row]) == pytest.approx(float(expected_loss), rel=2e-6, abs=2e-6)
        torch.testing.assert_close(
            gradients[row].double(), expected, rtol=0, atol=3e-6 * max(largest, 0.01)
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_torch_s(name: str) -> None:
    check(NETWORKS[name], "cross_entropy", 32, 32)


def with_dropout() -> nn.Module:
    return nn.Sequential(
        nn.Linear(13, 20),
        nn.Tanh(),
        nn.Dropout(0.3),
        nn.Linear(20, 33),
        nn.GELU(),
        nn.Dropout(0.5),
        nn.Linear(33, 17),
        nn.Dropout(0.1),
        nn.Linear(17, 5),
        nn.ELU(),
        nn.Dropout(0.2),
    )


@pytest.mark.parametrize("batch_size", [1, 29, 32, 50])
@pytest.mark.parametrize("registers", [None, Registers(8, 16), Registers(4, 16)], ids=str)
def test_dropout_masks_are_those_of_the_same_keys(
    batch_size: int, registers: Registers | None
) -> None:
    check(with_dropout, "cross_entropy", batch_size, 32, registers)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["one output", "deep"])
def test_gradients_of_every_loss(name: str, loss: str) -> None:
    check(NETWORKS[name], loss, 21, 32)


@pytest.mark.parametrize("batch_size", [1, 2, 15, 16, 17, 31, 33, 48, 60])
@pytest.mark.parametrize("usual_size", [8, 32, 48])
def test_batches_of_every_size(batch_size: int, usual_size: int) -> None:
    check(NETWORKS["deep"], "cross_entropy", batch_size, usual_size)


@pytest.mark.parametrize("registers", REGISTERS, ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse_loss"])
def test_registers_of_every_kind(loss: str, registers: Registers | None) -> None:
    check(NETWORKS["deep"], loss, 29, 32, registers)
    check(NETWORKS["one layer"], loss, 29, 32, registers)


def test_there_is_a_name_for_each_loss() -> None:
    for name, loss in LOSSES.items():
        assert read_loss(loss) == name


@pytest.mark.parametrize("loss", LOSSES)
def test_scores_are_the_losses_and_outputs_of_the_same_examples(loss: str) -> None:
    build = NETWORKS["deep"]
    weights, model = rows_of(build, N_ROWS), build()
    kernel = make_kernel(model, loss, 32)  # type: ignore[arg-type]
    inputs, targets = make_examples(5, loss)
    losses, outputs = kernel.losses(weights, inputs, targets), kernel.outputs(weights, inputs)
    assert outputs.shape == (N_ROWS, N_EXAMPLES, 5)
    for row in range(N_ROWS):
        expected, _ = reference(build(), LOSSES[loss], weights[row], inputs, targets)
        assert float(losses[row]) == pytest.approx(float(expected), rel=2e-6)
        torch.nn.utils.vector_to_parameters(weights[row].double(), model.double().parameters())
        torch.testing.assert_close(
            outputs[row].double(), model(inputs.double()).detach(), rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("loss", ["cross_entropy", "mse_loss", "l1_loss", "bce_with_logits"])
@pytest.mark.parametrize("name", ["relu", "elu", "gelu by tanh", "deep", "one layer"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e38])
def test_who_diverged_looks_like_it(name: str, loss: str, bad: float) -> None:
    build = NETWORKS[name]
    weights = rows_of(build, N_ROWS)
    clean = weights.clone()
    weights[1] = torch.where(torch.arange(weights.shape[1]) % 2 == 0, bad, -bad)
    kernel = make_kernel(build(), loss, 32)  # type: ignore[arg-type]
    n_out = build()(torch.zeros(1, 13)).shape[1]
    inputs, targets = make_examples(n_out, loss)
    numbers = draw_numbers(32)
    gradients, others = torch.empty_like(weights), torch.empty_like(weights)
    losses = kernel.train(weights, inputs, targets, numbers, gradients)
    model = build()
    torch.nn.utils.vector_to_parameters(weights[1], model.parameters())
    expected = LOSSES[loss](model(inputs[numbers[1]]), targets[numbers[1]])
    assert bool(losses[1].isfinite()) == bool(expected.isfinite())
    assert not losses[1].isfinite() or bad == 1e38
    # Nobody else has noticed.
    without = kernel.train(clean, inputs, targets, numbers, others)
    for row in (0, 2):
        assert torch.equal(losses[row], without[row])
        assert torch.equal(gradients[row], others[row])


@pytest.mark.parametrize("wrong", [10, -1, -100, 2**40])
def test_a_class_that_there_is_not_has_no_loss(wrong: int) -> None:
    """Targets are checked once; they are the user's, and may change."""
    build = NETWORKS["relu"]
    weights, kernel = rows_of(build, N_ROWS), make_kernel(build(), "cross_entropy", 32)
    n_out = build()(torch.zeros(1, 13)).shape[1]
    assert n_out == 10
    inputs, targets = make_examples(n_out, "cross_entropy")
    numbers = draw_numbers(32)
    targets[numbers[1, 3]] = wrong
    losses = kernel.train(weights, inputs, targets, numbers, torch.empty_like(weights))
    has_it = (numbers == numbers[1, 3]).any(1)
    assert torch.equal(losses.isnan(), has_it)
    assert kernel.losses(weights, inputs, targets).isnan().all()


@pytest.mark.parametrize("name", ["relu", "deep"])
def test_numbers_do_not_depend_on_rows_beside(name: str) -> None:
    weights = rows_of(NETWORKS[name], 9)
    kernel = make_kernel(NETWORKS[name](), "cross_entropy", 32)
    inputs, targets = make_examples(5, "cross_entropy")
    numbers = draw_numbers(29, 9)
    together, alone = torch.empty_like(weights), torch.empty_like(weights)
    losses = kernel.train(weights, inputs, targets, numbers, together)
    scores = kernel.losses(weights, inputs, targets)
    order = [4, 8, 0, 2]
    for place, row in enumerate(order):
        one = kernel.train(
            weights[row : row + 1], inputs, targets, numbers[row : row + 1], alone[:1]
        )
        assert torch.equal(one[0], losses[row])
        assert torch.equal(alone[0], together[row])
        assert torch.equal(kernel.losses(weights[order], inputs, targets)[place], scores[row])


def test_what_lies_beside_a_row_s_gradients_stays() -> None:
    weights = rows_of(NETWORKS["deep"], N_ROWS)
    kernel = make_kernel(NETWORKS["deep"](), "cross_entropy", 32)
    n_columns = weights.shape[1]
    wide = torch.full((N_ROWS, n_columns + 20), 7.0)
    kernel.train(
        weights, *make_examples(5, "cross_entropy"), draw_numbers(32), wide[:, 3 : 3 + n_columns]
    )
    assert bool((wide[:, :3] == 7).all())
    assert bool((wide[:, 3 + n_columns :] == 7).all())


def test_processes_agree_to_the_last_bit() -> None:
    digests = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-m", "tests.native.one_kernel"],
            capture_output=True,
            text=True,
            check=True,
        )
        digests.append(done.stdout.strip())
    assert digests == [digest()] * 2
