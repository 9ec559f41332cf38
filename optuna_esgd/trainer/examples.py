"""Examples in one form, whatever users have: arrays, tensors, a dataset, a loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    default_collate,
)

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.randomness import derive_seed

Arrays: TypeAlias = tuple[Any, Any]
Examples: TypeAlias = "Arrays | Dataset[Any] | DataLoader[Any]"


class ExampleSet:
    """Examples in one form: tensors where possible, else a map-style dataset.

    Attributes:
        tensors: (inputs, targets) with examples along the first dimension; None for a dataset
            that must be asked for each item (it may augment).
        batch_size: Examples per batch; the last batch may be smaller.
    """

    def __init__(
        self,
        tensors: tuple[Tensor, Tensor] | None,
        dataset: Dataset[Any] | None,
        batch_size: int,
        collate: Callable[[list[Any]], Any],
        *,
        drop_last: bool = False,
    ) -> None:
        self.tensors = tensors
        self.batch_size = batch_size
        self.drop_last = drop_last
        self._dataset = dataset
        self._collate = collate
        self._on_device: dict[torch.device, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(
        cls, examples: Examples, batch_size: int, name: str, *, override: int | None = None
    ) -> ExampleSet:
        """Bring what users have (arrays, tensors, dataset, loader) into this form.

        Raises:
            ConfigurationError: Not examples, of unequal lengths, or none at all.
        """
        collate: Callable[[list[Any]], Any] = default_collate
        drop_last = False
        if isinstance(examples, DataLoader):
            _check_takes_everyone_once(examples, name)
            drop_last = examples.drop_last and name == "train"
            if examples.batch_size is not None and override is None and name == "train":
                batch_size = examples.batch_size
            collate, examples = examples.collate_fn, examples.dataset
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigurationError(
                f"Batch sizes must be whole numbers of at least 1, got {batch_size!r}."
            )
        if isinstance(examples, IterableDataset):
            raise ConfigurationError(
                f"{name} must be of known length with items by index; an IterableDataset is not. "
                "Use a map-style dataset, or subclass Task and write train_epoch yourself."
            )
        # Only the plain class: whatever transforms its items must be asked for them.
        if type(examples) is TensorDataset and collate is default_collate:
            tensors: tuple[Tensor, ...] = examples.tensors
            examples = (tensors[0], tensors[1]) if len(tensors) == 2 else examples
        if isinstance(examples, Dataset):
            n_examples = len(examples)  # type: ignore[arg-type]
            made = cls(None, examples, batch_size, collate, drop_last=drop_last)
        else:
            inputs, targets = _as_tensors(examples, name)
            n_examples = len(inputs)
            made = cls((inputs, targets), None, batch_size, collate, drop_last=drop_last)
        if n_examples == 0:
            raise ConfigurationError(f"{name} has no examples.")
        return made

    def describe(self) -> str:
        """Number of examples, and a digest where they are tensors."""
        if self.tensors is None:
            return f"{len(self)} examples"
        return f"{len(self)} examples {digest_of(self.tensors)}"

    def first(self, n_batches: int) -> ExampleSet:
        """The first batches, as examples of their own."""
        n_examples = min(n_batches * self.batch_size, len(self))
        tensors, dataset = self.tensors, self._dataset
        if tensors is not None:
            tensors = tensors[0][:n_examples], tensors[1][:n_examples]
        if dataset is not None:
            dataset = Subset(dataset, range(n_examples))
        return ExampleSet(
            tensors, dataset, self.batch_size, self._collate, drop_last=self.drop_last
        )

    def __len__(self) -> int:
        """Number of examples."""
        if self.tensors is not None:
            return len(self.tensors[0])
        return len(self._dataset)  # type: ignore[arg-type]

    @property
    def everyone(self) -> Tensor:
        """(examples,) the indices of all, on the CPU, whatever torch's default device is."""
        return torch.arange(len(self), device="cpu")

    @property
    def n_batches(self) -> int:
        """Batches in one pass."""
        return len(self.cut(self.everyone))

    def cut(self, order: Tensor, dim: int = 0) -> list[Tensor]:
        """Cut indices along a dimension into batches; the last may be smaller, or dropped."""
        batches = list(order.split(self.batch_size, dim=dim))
        if self.drop_last and len(batches) > 1 and batches[-1].shape[dim] < self.batch_size:
            del batches[-1]
        return batches

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The tensors on a device, copied there once."""
        if self.tensors is None:
            raise TypeError("These examples are a dataset, not tensors.")
        if device not in self._on_device:
            inputs, targets = self.tensors
            self._on_device[device] = (inputs.to(device), targets.to(device))
        return self._on_device[device]

    def order(self, seed: int, lap: int = 0) -> Tensor:
        """(examples,) a permutation that depends on the seed and the number of the pass only."""
        seed = derive_seed(seed, "lap", lap) if lap else seed
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randperm(len(self), generator=generator, device="cpu")

    def batches(
        self, device: torch.device, seed: int | None = None, lap: int = 0
    ) -> Iterator[tuple[Any, Any]]:
        """One pass, in the order of ``seed``, or as they are where it is None."""
        order = self.everyone if seed is None else self.order(seed, lap)
        for indices in self.cut(order):
            yield self.take(indices, device)

    def take(self, indices: Tensor, device: torch.device) -> tuple[Any, Any]:
        """One batch of these examples."""
        if self.tensors is not None:
            inputs, targets = self.on(device)
            on_device = indices.to(device)
            return inputs[on_device], targets[on_device]
        items = [self._dataset[int(index)] for index in indices]  # type: ignore[index]
        batch = self._collate(items)
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise ConfigurationError(
                "Examples must be pairs of inputs and targets, but a batch of them is "
                f"{_in_words(batch)}. Have the Dataset return such pairs, or give a DataLoader a "
                "collate_fn that makes (inputs, targets) of a list of examples; each of the two "
                "may be a dict or a tuple."
            )
        inputs, targets = batch
        return _to_device(inputs, device), _to_device(targets, device)


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Of types, shapes and contents, in their order; it finds changes, not forgery."""
    digest = xxhash.xxh3_64()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(content.numpy().data)
    return digest.hexdigest()


def _check_takes_everyone_once(loader: DataLoader[Any], name: str) -> None:
    """Refuse a loader that chooses examples, or joins them to batches, by itself."""
    if isinstance(loader.dataset, IterableDataset):
        return  # which is refused anyway
    if loader.batch_sampler is None:
        raise ConfigurationError(
            f"{name} is a DataLoader with batch_size=None, whose dataset makes batches itself; "
            "it must hold single examples, since each individual draws its own batches of them."
        )
    own: object = loader.sampler
    if type(loader.batch_sampler) is not BatchSampler or loader.batch_size is None:
        own = loader.batch_sampler
    elif isinstance(own, SequentialSampler) or (
        isinstance(own, RandomSampler)
        and not own.replacement
        and own.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    ):
        return
    raise ConfigurationError(
        f"{name} is a DataLoader with a sampler of its own ({type(own).__name__}), which would "
        "not be used: each individual draws the order of all examples for itself. For some of "
        "them give torch.utils.data.Subset(dataset, indices); to draw them otherwise, "
        "SupervisedTask(batches=...)."
    )


def _in_words(batch: object) -> str:
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} of {', '.join(repr(name) for name in batch)}"
    if isinstance(batch, tuple | list):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"


def _as_tensors(examples: object, name: str) -> tuple[Tensor, Tensor]:
    if not (isinstance(examples, tuple | list) and len(examples) == 2):
        raise ConfigurationError(
            f"{name} must be (inputs, targets), a Dataset or a DataLoader, got "
            f"{type(examples).__name__}."
        )
    tensors = []
    for part in examples:
        if not isinstance(part, torch.Tensor | np.ndarray):
            raise ConfigurationError(
                f"{name} must hold tensors or arrays, got {type(part).__name__}."
            )
        tensor = part if isinstance(part, torch.Tensor) else torch.from_numpy(part)
        if tensor.dim() == 0 or tensor.layout is not torch.strided:
            got = "a single number" if tensor.dim() == 0 else f"a {tensor.layout} tensor"
            raise ConfigurationError(
                f"{name} must hold dense tensors with examples along the first dimension, "
                f"got {got}."
            )
        tensors.append(tensor)
    inputs, targets = tensors
    if len(inputs) != len(targets):
        raise ConfigurationError(
            f"{name} has {len(inputs)} inputs but {len(targets)} targets; they must be as many."
        )
    return inputs, targets


def _to_device(batch: Any, device: torch.device) -> Any:
    if callable(getattr(batch, "to", None)):  # a PackedSequence is a tuple, too
        return batch.to(device)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(_to_device(part, device) for part in batch))
    if isinstance(batch, tuple | list):
        return type(batch)(_to_device(part, device) for part in batch)
    if isinstance(batch, dict):
        return {name: _to_device(part, device) for name, part in batch.items()}
    return batch
