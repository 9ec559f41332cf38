"""Batches drawn by error: what the network gets wrong comes more often.

After Simpson, "Oddball SGD: Novelty Driven Stochastic Gradient Descent for Training Deep Neural
Networks", arXiv 1509.05765 (2015): the probability that an example is selected is proportional to
its error. Floor, exponent and importance weights are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from optuna_esgd.errors import ConfigurationError


class OddballSampler(Sampler[list[int]]):
    """A batch sampler with p_i ∝ error_i^α + floor; draws with replacement.

    Drawing by error changes what is minimised: with |r| as the error and squared loss, Σ|r|³
    instead of Σ r². With ``importance_weights=True`` multiply each example's loss by its
    ``weights(indices)``, 1/(n·p_i): then the expected gradient is that of plain sampling, only its
    variance differs.

    Errors are those last told by ``update``; all are 1 before. Changes count from the next batch
    on, also within a pass.

    Example:
        >>> sampler = OddballSampler(len(dataset), batch_size=32)
        >>> for indices in sampler:
        ...     errors = nn.functional.cross_entropy(model(x[indices]), y[indices],
        ...                                          reduction="none")
        ...     (errors * sampler.weights(indices)).mean().backward()
        ...     sampler.update(indices, errors)

    Args:
        n: Number of examples.
        batch_size: Examples per batch; every batch is full.
        floor: Added to each example's share, above 0, so that nobody is forgotten.
        alpha: α >= 0; 0 draws evenly.
        importance_weights: Whether ``weights`` undoes the change of objective; ones otherwise.
        generator: Source of the draws; torch's global one if None.

    Raises:
        ConfigurationError: A number is out of range.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        floor: float = 1e-3,
        alpha: float = 1.0,
        importance_weights: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        for name, count in (("n", n), ("batch_size", batch_size)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigurationError(f"{name} must be a whole number >= 1, got {count!r}.")
        if not 0 < floor < math.inf:
            raise ConfigurationError(
                f"floor must be finite and above 0 (or learnt examples never return), got {floor}."
            )
        if not 0 <= alpha < math.inf:
            raise ConfigurationError(f"alpha must be finite and 0 or more, got {alpha}.")
        self.n = n
        self.batch_size = batch_size
        self.floor = floor
        self.alpha = alpha
        self.importance_weights = importance_weights
        self.generator = generator
        self._errors = torch.ones(n, dtype=torch.float64, device="cpu")

    def __len__(self) -> int:
        """Batches in one pass: as many as it takes to draw n examples."""
        return math.ceil(self.n / self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        """One pass."""
        for _ in range(len(self)):
            drawn = torch.multinomial(
                self.probabilities(), self.batch_size, replacement=True, generator=self.generator
            )
            yield drawn.tolist()

    def probabilities(self) -> Tensor:
        """(n,) of the next draw, float64; they sum to one."""
        shares = self._errors.pow(self.alpha) + self.floor
        return shares / shares.sum()

    def update(self, indices: list[int] | Tensor, errors: Tensor) -> None:
        """Take the errors examples have now.

        Args:
            indices: (k,) which examples. One that was drawn twice keeps the last error given.
            errors: (k,) their errors, of any sign: the absolute value counts. One that is not
                finite counts as the largest finite one among all, so that a diverged network
                draws its examples evenly.

        Raises:
            ConfigurationError: Not one error per index, or indices out of range.
        """
        where = torch.as_tensor(indices, dtype=torch.int64, device="cpu")
        values = errors.detach().to("cpu", torch.float64).abs()
        if where.dim() != 1 or where.shape != values.shape:
            raise ConfigurationError(
                f"Each index needs one error, got {list(where.shape)} indices and "
                f"{list(values.shape)} errors."
            )
        if any(not 0 <= index < self.n for index in where.tolist()):
            raise ConfigurationError(f"There are examples 0 to {self.n - 1}, got {indices}.")
        # One after the other: of an index that comes twice the last error must stay, always.
        for index, value in zip(where.tolist(), values.tolist(), strict=True):
            self._errors[index] = value
        finite = self._errors.isfinite()
        largest = self._errors[finite].max() if finite.any() else torch.ones((), device="cpu")
        self._errors[~finite] = largest.to(torch.float64)

    def weights(self, indices: list[int] | Tensor) -> Tensor:
        """(k,) what the losses of these examples are to be multiplied by, float64.

        Take them before ``update``: they belong to the probabilities the batch was drawn with.
        """
        where = torch.as_tensor(indices, dtype=torch.int64, device="cpu")
        if not self.importance_weights:
            return torch.ones(len(where), dtype=torch.float64, device="cpu")
        return 1.0 / (self.n * self.probabilities()[where])
