"""Networks, what they are compared with, and where there is a compiler for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from optuna_esgd.genome.keyed_randomness import KeyedDropout
from optuna_esgd.native.chain import Chain, Loss, read_chain
from optuna_esgd.native.compiler import find_compiler, load_library
from optuna_esgd.native.kernel import Kernel, registers_of
from optuna_esgd.native.source import Place, Registers, kernel_source

needs_compiler = pytest.mark.skipif(isinstance(find_compiler(), str), reason=str(find_compiler()))


def places_of(model: nn.Module, chain: Chain) -> list[Place]:
    """Weights side by side in the model's order, as in a row."""
    starts, n_before = {}, 0
    for name, parameter in model.named_parameters():
        starts[name] = n_before
        n_before += parameter.numel()
    return [
        Place(starts[one.weight], None if one.bias is None else starts[one.bias])
        for one in chain.layers
    ]


def make_kernel(
    model: nn.Module, loss: Loss | None, batch_size: int, registers: Registers | None = None
) -> Kernel:
    """The model's kernel, for these registers or those of this processor."""
    chain, compiler = read_chain(model), find_compiler()
    assert isinstance(chain, Chain)
    assert not isinstance(compiler, str)
    registers = registers or registers_of(compiler)
    source = kernel_source(chain, loss, places_of(model, chain), registers, batch_size)
    library = load_library(compiler, source)
    assert not isinstance(library, str), library
    return Kernel(library, chain.layers[-1].n_out)


def rows_of(model: Callable[[], nn.Module], n_rows: int) -> Tensor:
    """(rows, columns) weights of freshly built models, rows padded as in a matrix."""
    rows = [torch.cat([p.detach().flatten() for p in model().parameters()]) for _ in range(n_rows)]
    padded = torch.full((n_rows, len(rows[0]) + 5), torch.nan)
    padded[:, : len(rows[0])] = torch.stack(rows)
    return padded[:, : len(rows[0])]


def reference(
    model: nn.Module,
    loss: Callable[..., Any],
    row: Tensor,
    inputs: Tensor,
    targets: Tensor,
    key: int = 0,
) -> tuple[Tensor, Tensor]:
    """Loss and (columns,) gradients of one row by plain PyTorch, in double precision."""
    model = model.double()
    torch.nn.utils.vector_to_parameters(row.double(), model.parameters())
    if targets.is_floating_point():
        targets = targets.double()
    with KeyedDropout(torch.tensor(key)):
        outputs = model(inputs.double())
    value = loss(outputs, targets)
    gradients = torch.autograd.grad(value, list(model.parameters()))
    return value.detach(), torch.cat([one.flatten() for one in gradients])
