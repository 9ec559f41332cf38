"""Compiled kernels, called on rows of weights."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from optuna_esgd.native.chain import Chain, Loss
from optuna_esgd.native.compiler import Compiler, find_compiler, load_library
from optuna_esgd.native.source import Place, Registers, kernel_source

_LONG, _POINTER = ctypes.c_long, ctypes.c_void_p


class Kernel:
    """Losses and gradients of a chain, for many rows of weights.

    Args:
        library: Of the program that ``kernel_source`` writes.
        n_out: The network's outputs.
    """

    def __init__(self, library: ctypes.CDLL, n_out: int) -> None:
        self._n_out = n_out
        self._train, self._score = library.train, library.score
        self._train.argtypes = [
            *(_LONG, _LONG, _POINTER, _LONG),
            *(_POINTER, _POINTER, _POINTER, _LONG),
            *(_POINTER, _POINTER, _LONG, _POINTER),
        ]
        self._score.argtypes = [
            *(_LONG, _LONG, _POINTER, _LONG),
            *(_POINTER, _POINTER, _POINTER, _POINTER),
        ]

    def train(
        self,
        weights: Tensor,
        inputs: Tensor,
        targets: Tensor,
        numbers: Tensor,
        gradients: Tensor | None,
        keys: Tensor | None = None,
    ) -> Tensor:
        """Losses of all rows, each on its own examples, and their gradients.

        Args:
            weights: (rows, columns) float32.
            inputs: (examples, features) float32, in one piece.
            targets: (examples, ...) as the loss takes them, in one piece.
            numbers: (rows, batch) int64, which examples are whose.
            gradients: (rows, columns) to be written; None if nobody wants them.
            keys: (rows,) int64, what dropout masks are drawn from; all 0 if None.

        Returns:
            (rows,) float32.
        """
        n_rows, batch_size = numbers.shape
        if numbers.stride(1) != 1:
            numbers = numbers.contiguous()
        keys = None if keys is None else keys.contiguous()
        losses = _floats(n_rows)
        _check(
            self._train(
                n_rows,
                batch_size,
                weights.data_ptr(),
                weights.stride(0),
                inputs.data_ptr(),
                targets.data_ptr(),
                numbers.data_ptr(),
                numbers.stride(0),
                None if keys is None else keys.data_ptr(),
                None if gradients is None else gradients.data_ptr(),
                0 if gradients is None else gradients.stride(0),
                losses.data_ptr(),
            )
        )
        return losses

    def losses(self, weights: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        """(rows,) losses of all rows on the same examples; arguments as above."""
        losses = _floats(len(weights))
        self._call_score(weights, inputs, targets, None, losses)
        return losses

    def outputs(self, weights: Tensor, inputs: Tensor) -> Tensor:
        """(rows, examples, outputs) of the network, for all rows on the same examples."""
        outputs = _floats(len(weights), len(inputs), self._n_out)
        self._call_score(weights, inputs, None, outputs, None)
        return outputs

    def _call_score(
        self,
        weights: Tensor,
        inputs: Tensor,
        targets: Tensor | None,
        outputs: Tensor | None,
        losses: Tensor | None,
    ) -> None:
        _check(
            self._score(
                len(weights),
                len(inputs),
                weights.data_ptr(),
                weights.stride(0),
                inputs.data_ptr(),
                *(None if one is None else one.data_ptr() for one in (targets, outputs, losses)),
            )
        )


def build_kernel(
    chain: Chain, loss: Loss | None, places: Sequence[Place], batch_size: int
) -> Kernel | str:
    """Compile a chain's kernel, or say why that cannot be done here.

    Args:
        chain: The network.
        loss: What is trained on; None for a kernel that gives outputs only.
        places: Where each layer's weights lie in a row.
        batch_size: That most batches have.
    """
    compiler = find_compiler()
    if isinstance(compiler, str):
        return compiler
    source = kernel_source(chain, loss, places, registers_of(compiler), batch_size)
    library = load_library(compiler, source)
    return library if isinstance(library, str) else Kernel(library, chain.layers[-1].n_out)


def registers_of(compiler: Compiler) -> Registers:
    """Those that the compiler's code may use."""
    has = compiler.has
    if "__AVX512F__" in has:
        return Registers(lanes=16, n=32)
    if "__AVX__" in has:
        return Registers(lanes=8, n=16)
    return Registers(lanes=4, n=32 if "__aarch64__" in has else 16)


def _floats(*shape: int) -> Tensor:
    """Memory for a kernel to write to, whatever torch's present defaults are."""
    return torch.empty(shape, dtype=torch.float32, device="cpu")


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("There is no memory for the activations of one network.")
