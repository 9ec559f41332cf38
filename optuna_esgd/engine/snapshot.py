"""A set of tensors as bytes: what the store keeps and the genome layer reads and writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from optuna_esgd.evolution.space import Value

_PREFIX_BYTES = 8
_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Snapshot:
    """Tensors in the safetensors layout, header and body apart. Never pickle.

    Attributes:
        manifest: The JSON header (names, dtypes, shapes, offsets into the payload) without its
            length prefix, in canonical form: equal tensors give equal bytes.
        payload: The tensors' bytes, contiguous, little endian.
    """

    manifest: bytes
    payload: bytes | bytearray | memoryview

    @property
    def file_bytes(self) -> int:
        """Size of the ``.safetensors`` file."""
        return _PREFIX_BYTES + len(self.manifest) + len(self.payload)

    def cut_file(self) -> Iterator[bytes]:
        """The ``.safetensors`` file, piece by piece: it begins with the manifest's length."""
        yield len(self.manifest).to_bytes(_PREFIX_BYTES, "little") + bytes(self.manifest)
        payload = memoryview(self.payload)
        for start in range(0, len(payload), _PIECE_BYTES):
            yield bytes(payload[start : start + _PIECE_BYTES])


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one individual's slot ended.

    Attributes:
        number: Which individual of the slot's round.
        fitness: At the end, lower is better; inf = diverged.
        weights: Final weights; None for offspring, which are bred again when they survive.
        optimizer_state: What the species carries on; None where it keeps nothing.
        birth_fitness: Fitness at birth where the plan did not know it (founders); else None.
        species: Where the objective chose it, else None: the plan's stands.
        hyperparameters: Where the objective chose them, else None: the plan's stand.
        n_back_offs: How often training returned to an earlier point.
        n_epochs: Epochs trained.
        n_gradients: Gradient evaluations spent, each on one mini-batch.
        n_forwards: Evaluations of the loss alone, each on one mini-batch.
        n_evaluations: Fitness evaluations spent.
    """

    number: int
    fitness: float
    weights: Snapshot | None = None
    optimizer_state: Snapshot | None = None
    birth_fitness: float | None = None
    species: str | None = None
    hyperparameters: Mapping[str, Value] | None = None
    n_back_offs: int = 0
    n_epochs: int = 0
    n_gradients: int = 0
    n_forwards: int = 0
    n_evaluations: int = 0
