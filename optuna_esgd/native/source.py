"""The kernel of a chain as C text.

Notation: a batch is worked off in chunks of C examples; activations are kept with examples along
the lanes, (features, C), and once more with features along them, (C, features), because weights'
gradients are sums over examples. Lanes beyond the last example hold numbers that nobody reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna_esgd.native.activations import (
    ACTIVATION_FUNCTIONS,
    activate,
    has_sums,
    multiply_slopes,
)
from optuna_esgd.native.chain import Chain, Layer, Loss
from optuna_esgd.native.dropout import DROPOUT_FUNCTIONS, drop
from optuna_esgd.native.entries import ENTRIES, HELPERS
from optuna_esgd.native.losses import LOSSES, NO_LOSS
from optuna_esgd.native.tiles import Run, Tile, divide
from optuna_esgd.native.vectors import vector_source

_WEIGHTS, _SCRATCH = "const float *restrict w", "float *restrict s"
_INPUTS, _DRAWS = "const float *restrict inputs", "int64_t key, long start"
_GRADIENTS = "float *restrict g, int goes_on"


@dataclass(frozen=True)
class Registers:
    """The vector registers of a processor.

    Attributes:
        lanes: Numbers in each.
        n: How many there are.
    """

    lanes: int
    n: int

    def n_vectors(self, batch_size: int) -> int:
        """Vectors in a chunk, so that batches of this size leave few lanes empty."""

        def cost(n_vectors: int) -> float:
            n_examples = self.lanes * n_vectors
            n_padded = -(-batch_size // n_examples) * n_examples
            return n_padded * (1 + 1 / n_vectors + 1 / self.most_rows(n_vectors))

        return min((2, 3, 1, 4), key=cost)

    def most_rows(self, n_vectors: int) -> int:
        """Rows of a tile, so that it stays in registers with what it is computed from."""
        return max(1, min(16, (self.n - n_vectors - 2) // n_vectors))


@dataclass(frozen=True)
class Place:
    """Where a layer's weights lie in a row.

    Attributes:
        weight: First column of its weights.
        bias: First column of its biases; None if it has none.
        trains_weight: Whether gradients of the weights are wanted.
        trains_bias: Whether those of the biases are.
    """

    weight: int
    bias: int | None
    trains_weight: bool = True
    trains_bias: bool = True


def kernel_source(
    chain: Chain,
    loss: Loss | None,
    places: Sequence[Place],
    registers: Registers,
    batch_size: int,
) -> str:
    """A program with the functions ``train`` and ``score``; see ``kernel``.

    Args:
        chain: The network in the mode that is wanted.
        loss: None if nothing but the network's outputs is wanted.
        places: Of each layer's weights.
        registers: Of the processor.
        batch_size: That most batches have; others work too.
    """
    return _Program(chain, loss, places, registers, batch_size).source()


class _Program:
    def __init__(
        self,
        chain: Chain,
        loss: Loss | None,
        places: Sequence[Place],
        registers: Registers,
        batch_size: int,
    ) -> None:
        self.layers = chain.layers
        self.loss = loss
        self.places = places
        self.registers = registers
        self.n_vectors = registers.n_vectors(batch_size)
        self.chunk = self.n_vectors * registers.lanes
        self._tiles: dict[Tile, str] = {}
        self._scratch: dict[str, int] = {}
        self._size = 0

    def source(self) -> str:
        """Everything."""
        widths = [self.layers[0].n_in, *(layer.n_out for layer in self.layers)]
        for number, width in enumerate(widths):
            padded = self._padded(width)
            self._keep(f"examples{number}", padded * self.chunk)  # (C, features)
            self._keep(f"values{number}", padded * self.chunk)  # (features, C)
            self._keep(f"slopes{number}", padded * self.chunk)
        for number, layer in enumerate(self.layers, start=1):
            if has_sums(layer):
                self._keep(f"sums{number}", layer.n_out * self.chunk)
            if layer.dropout:
                self._keep(f"factors{number}", layer.n_out * self.chunk)
        forward, backward = list(self._forward()), list(self._backward())
        numbers = {
            **self._scratch,
            "LAST_VALUES": self._scratch[f"values{len(self.layers)}"],
            "SCRATCH": self._size,
            "CHUNK": self.chunk,
            "N_IN": widths[0],
            "N_IN_PADDED": self._padded(widths[0]),
            "N_OUT": widths[-1],
            "N_LAYERS": len(self.layers),
        }
        return "\n".join(
            [
                vector_source(self.registers.lanes),
                f"enum {{ {', '.join(f'{k} = {v}' for k, v in numbers.items())} }};",
                *(replace(tile, name=name).source() for tile, name in self._tiles.items()),
                HELPERS,
                ACTIVATION_FUNCTIONS,
                DROPOUT_FUNCTIONS,
                *forward,
                f"static void forward({_WEIGHTS}, {_INPUTS}, {_SCRATCH}, {_DRAWS}) {{",
                *self._forward_calls(),
                "}",
                *self._loss_lines(),
                *backward,
                f"static void backward({_WEIGHTS}, {_SCRATCH}, long n, {_GRADIENTS}) {{",
                *self._backward_calls(),
                "}",
                ENTRIES,
            ]
        )

    def _keep(self, name: str, n_floats: int) -> None:
        self._scratch[name] = self._size
        self._size += n_floats

    def _padded(self, n: int) -> int:
        lanes = self.registers.lanes
        return -(-n // lanes) * lanes

    def _tile(self, **settings: Any) -> str:
        """The name of a tile's function, which is written once."""
        tile = Tile(name="", **settings)
        return self._tiles.setdefault(tile, f"tile{len(self._tiles)}")

    def _forward(self) -> Iterator[str]:
        """A function for each layer: (weights, inputs, scratch) -> nothing."""
        for number, layer in enumerate(self.layers):
            place = self.places[number]
            yield (f"static void forward{number}({_WEIGHTS}, {_INPUTS}, {_SCRATCH}, {_DRAWS}) {{")
            most = self.registers.most_rows(self.n_vectors)
            for run in divide(layer.n_out, most):
                tile = self._tile(
                    n_rows=run.size,
                    n_vectors=self.n_vectors,
                    row_step=layer.n_in,
                    sum_step=1,
                    b_step=self.chunk,
                    out_step=self.chunk,
                    start="nothing" if place.bias is None else "rows",
                )
                numbers = "" if place.bias is None else f", w + {place.bias} + row"
                yield _loop("row", run)
                yield (
                    f"    {tile}(w + {place.weight} + row * {layer.n_in}, inputs, {layer.n_in}, "
                    f"s + values{number + 1} + row * CHUNK{numbers});"
                )
            yield from activate(layer, number + 1)
            if layer.dropout:
                n_before = sum(one.dropout > 0 for one in self.layers[:number])
                yield from drop(layer, number + 1, n_before)
            yield "  (void)key; (void)start;"
            yield "}"

    def _forward_calls(self) -> Iterator[str]:
        for number in range(len(self.layers)):
            source = "inputs" if number == 0 else f"s + values{number}"
            yield f"  forward{number}(w, {source}, s, key, start);"

    @property
    def _lowest(self) -> int:
        """The first layer of which any gradient is wanted."""
        wanted = [
            place.trains_weight or (place.trains_bias and place.bias is not None)
            for place in self.places
        ]
        return wanted.index(True) if True in wanted else len(wanted)

    def _backward(self) -> Iterator[str]:
        """Functions of each layer: gradients of its weights, and what its inputs got."""
        if self.loss is None:
            return
        for number in range(self._lowest, len(self.layers)):
            layer, place = self.layers[number], self.places[number]
            if place.trains_weight:
                yield from self._weight_gradients(number, layer, place)
            if number > self._lowest:
                yield from self._input_gradients(number, layer, place)

    def _weight_gradients(self, number: int, layer: Layer, place: Place) -> Iterator[str]:
        lanes = self.registers.lanes
        yield f"static void weights{number}({_SCRATCH}, long n, {_GRADIENTS}) {{"
        # Full vectors, and then the last one by itself if only a part of it counts.
        n_full, n_last = divmod(layer.n_in, lanes)
        runs = [(run, 0) for run in divide(n_full, max(2, self.n_vectors))] if n_full else []
        runs += [(Run(n_full, 1, n_full + 1), n_last)] if n_last else []
        for vectors, n_short in runs:
            for run in divide(layer.n_out, self.registers.most_rows(vectors.size)):
                tile = self._tile(
                    n_rows=run.size,
                    n_vectors=vectors.size,
                    row_step=self.chunk,
                    sum_step=1,
                    b_step=self._padded(layer.n_in),
                    out_step=layer.n_in,
                    start="present",
                    n_last=n_short,
                )
                yield _loop("first", vectors)
                yield f"  {_loop('row', run)}"
                yield (
                    f"      {tile}(s + slopes{number + 1} + row * CHUNK, "
                    f"s + examples{number} + first * LANES, n, "
                    f"g + {place.weight} + row * {layer.n_in} + first * LANES, goes_on);"
                )
        yield "}"

    def _input_gradients(self, number: int, layer: Layer, place: Place) -> Iterator[str]:
        yield (f"static void inputs{number}({_WEIGHTS}, {_SCRATCH}, long n) {{")
        most = self.registers.most_rows(self.n_vectors)
        for run in divide(layer.n_in, most):
            tile = self._tile(
                n_rows=run.size,
                n_vectors=self.n_vectors,
                row_step=1,
                sum_step=layer.n_in,
                b_step=self.chunk,
                out_step=self.chunk,
                start="nothing",
            )
            yield _loop("row", run)
            yield (
                f"    {tile}(w + {place.weight} + row, s + slopes{number + 1}, {layer.n_out}, "
                f"s + slopes{number} + row * CHUNK);"
            )
        yield from multiply_slopes(self.layers[number - 1], number)
        yield "}"

    def _backward_calls(self) -> Iterator[str]:
        if self.loss is None:
            return
        for number in range(len(self.layers) - 1, self._lowest - 1, -1):
            layer, place = self.layers[number], self.places[number]
            if place.trains_weight:
                width = layer.n_in
                if number > 0:
                    yield (
                        f"  transpose(s + values{number}, CHUNK, {width}, CHUNK, "
                        f"s + examples{number}, {self._padded(width)});"
                    )
                yield f"  weights{number}(s, n, g, goes_on);"
            if place.bias is not None and place.trains_bias:
                biases = f"{layer.n_out}, g + {place.bias}"
                yield f"  sum_rows(s + slopes{number + 1}, {biases}, goes_on);"
            if number > self._lowest:
                yield f"  inputs{number}(w, s, n);"

    def _loss_lines(self) -> Iterator[str]:
        last = len(self.layers)
        if self.loss is None:
            yield NO_LOSS
            return
        yield f"#define OUTPUTS (s + values{last})"
        yield f"#define SLOPES (s + slopes{last})"
        yield LOSSES[self.loss]
        yield "static void loss_slopes(float *restrict s, long n) {"
        yield from multiply_slopes(self.layers[-1], last)
        yield "}"


def _loop(counter: str, run: Run) -> str:
    return f"  for (long {counter} = {run.start}; {counter} < {run.stop}; {counter} += {run.size})"
