"""A batched step on the matrix's views equals a loop over models: weights, buffers and dropout."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from optuna_esgd.genome.keyed_randomness import KeyedDropout
from optuna_esgd.genome.matrix import Matrix
from tests.genome.networks import CASES, filled_matrix

N_ROWS, N_STEPS, LR = 3, 4, 0.05
Tensors = dict[str, Tensor]


def loss_of(outputs: Tensor) -> Tensor:
    return (outputs - torch.linspace(-1, 1, outputs.shape[-1])).square().mean()


def batched_step(model: nn.Module, matrix: Matrix, inputs: Tensor, keys: Tensor) -> Tensor:
    """One SGD step of all rows at once; buffers advance in place."""

    def loss(
        parameters: Tensors, frozen: Tensors, buffers: Tensors, inputs: Tensor, key: Tensor
    ) -> tuple[Tensor, Tensors]:
        advanced = {name: value.clone() for name, value in buffers.items()}
        with KeyedDropout(key):
            outputs = torch.func.functional_call(
                model, {**parameters, **frozen, **advanced}, (inputs,)
            )
        return loss_of(outputs), advanced

    gradients, (losses, advanced) = torch.func.vmap(torch.func.grad_and_value(loss, has_aux=True))(
        matrix.parameters(), matrix.frozen(), matrix.buffers(), inputs, keys
    )
    for name, value in advanced.items():
        matrix.buffers()[name].copy_(value)
    for block, gradient in zip(
        matrix.trainable(), matrix.layout.flatten_trainable(gradients), strict=True
    ):
        block.sub_(LR * gradient)
    return losses


def plain_step(model: nn.Module, inputs: Tensor, key: Tensor) -> Tensor:
    model.zero_grad()
    with KeyedDropout(key):
        loss = loss_of(model(inputs))
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(LR * parameter.grad)
    return loss.detach()


@pytest.mark.parametrize("name", CASES)
def test_training_batched_equals_training_one_by_one(name: str) -> None:
    build, batch = CASES[name]
    matrix = filled_matrix(build, N_ROWS)
    models = [build().train() for _ in range(N_ROWS)]
    for row, model in enumerate(models):
        matrix.load_into(model, row)
    template = build().train()
    for step in range(N_STEPS):
        inputs = torch.stack([batch() for _ in range(N_ROWS)])
        keys = torch.arange(N_ROWS) * 2**40 + step
        with warnings.catch_warnings():
            # Some operators have no batched form in torch; slow, but the numbers are the same.
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            losses = batched_step(template, matrix, inputs, keys)
        expected = [plain_step(model, inputs[row], keys[row]) for row, model in enumerate(models)]
        torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-5, atol=1e-6)
    for row, model in enumerate(models):
        alone = Matrix.zeros(matrix.layout, 1)
        alone.take_from(model, 0)
        for key, block in matrix.blocks.items():
            torch.testing.assert_close(block[row], alone.blocks[key][0], rtol=1e-4, atol=1e-6)


def test_batch_counters_and_statistics_of_rows_are_their_own() -> None:
    build, batch = CASES["convolutional"]
    matrix = filled_matrix(build, N_ROWS)
    template = build().train()
    for step in range(2):
        inputs = torch.stack([batch() + 5 * row for row in range(N_ROWS)])
        batched_step(template, matrix, inputs, torch.arange(N_ROWS) + step)
    assert matrix.buffers()["features.1.num_batches_tracked"].tolist() == [2] * N_ROWS
    means = matrix.buffers()["features.1.running_mean"]
    assert not torch.allclose(means[0], means[1])
    assert template.features[1].num_batches_tracked == 0


@pytest.mark.parametrize("name", ["convolutional", "mixed"])
def test_dropout_is_part_of_what_is_compared(name: str) -> None:
    """Guards the test above: with other keys the losses differ."""
    build, batch = CASES[name]
    inputs = torch.stack([batch()] * 2)
    matrix = filled_matrix(build, 2)
    matrix.copy_rows(matrix, [0], [1])
    losses = batched_step(build().train(), matrix, inputs, torch.tensor([1, 2]))
    assert losses[0] != losses[1]
