"""Mutations with the covariance of the gradient's noise.

After Fioresi, Chaudhari and Soatto, "A Geometric Interpretation of Stochastic Gradient Descent
Using Diffusion Metrics", Entropy 22(1):101 (2020): the noise of mini-batch gradients is far from
isotropic, and its covariance D shapes where SGD wanders. Mutating with it is our construction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.operators.mutation import Landscape, seeded_generator, trainable


@dataclass(frozen=True)
class GradientNoiseMutation:
    """ε ~ N(0, (σ·scale)²·D), D the covariance of ``rank`` mini-batch gradients.

    D = Σ (g_i - ḡ)(g_i - ḡ)ᵀ / (rank - 1), measured at the mean of the parents. An offspring costs
    ``rank`` gradient evaluations.

    Args:
        rank: Mini-batches, at least 2; D has rank ``rank`` - 1.
        scale: Factor on σ_k, above 0.
        is_normalized: Whether D is first scaled to a mean variance of 1 per weight. Then σ_k means
            what it means to Gaussian mutations, and only the shape of the noise is another.

    Raises:
        ConfigurationError: A number is out of range.
    """

    rank: int = 8
    scale: float = 1.0
    is_normalized: bool = True

    def __post_init__(self) -> None:
        """Refuse what has no covariance."""
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 2:
            raise ConfigurationError(f"rank must be a whole number >= 2, got {self.rank!r}.")
        if not 0 < self.scale < math.inf:
            raise ConfigurationError(f"scale must be finite and above 0, got {self.scale}.")

    @property
    def n_gradients(self) -> int:
        """One per mini-batch."""
        return self.rank

    @property
    def n_evaluations(self) -> int:
        """None."""
        return 0

    def mutate(self, model: nn.Module, sigma: float, landscape: Landscape, *, seed: int) -> None:
        """Add the noise; nothing where all gradients agree or any is not finite."""
        generator = seeded_generator(model, seed)
        noise = self.noise(landscape.batch_gradients(model, self.rank, seed), generator)
        with torch.no_grad():
            for parameter, part in zip(trainable(model), noise, strict=True):
                parameter.add_(part.to(parameter.dtype), alpha=sigma)

    def noise(
        self, gradients: Iterable[Sequence[Tensor]], generator: torch.Generator
    ) -> list[Tensor]:
        """Draw a mutation of σ = 1: scale·Σ z_i (g_i - ḡ)/√(rank - 1), z_i ~ N(0, 1).

        Args:
            gradients: ``rank`` times one tensor per parameter; gone through once, not kept.
            generator: Source of the z_i.

        Returns:
            One tensor per parameter; 16-bit gradients give noise in float32.
        """
        # Σ z (g - ḡ) = Σ z d - (Σ z)·Σ d / n with d = g - g_1: one pass, whatever the size of ḡ.
        stream = iter(gradients)
        origin = [_wide(one) for one in next(stream)]
        total = [torch.zeros_like(one) for one in origin]
        mixed = [torch.zeros_like(one) for one in origin]
        z_total, squares = self._draw(generator), 0.0
        for gradient in stream:
            z = self._draw(generator)
            z_total += z
            for first, one, sum_, mix in zip(origin, gradient, total, mixed, strict=True):
                difference = _wide(one) - first
                sum_.add_(difference)
                mix.add_(difference, alpha=z)
                squares += _squared_length(difference)
        trace = squares - sum(map(_squared_length, total)) / self.rank
        factor = self._factor(trace / (self.rank - 1), sum(one.numel() for one in origin))
        if factor == 0:
            return [torch.zeros_like(one) for one in origin]
        for mix, sum_ in zip(mixed, total, strict=True):
            mix.sub_(sum_, alpha=z_total / self.rank).mul_(factor / math.sqrt(self.rank - 1))
        return mixed

    @staticmethod
    def _draw(generator: torch.Generator) -> float:
        return float(torch.randn((), generator=generator, device=generator.device))

    def _factor(self, trace: float, n_weights: int) -> float:
        """From D to the wanted covariance, as a factor on the noise; 0 where there is none."""
        if not (math.isfinite(trace) and trace > 0):
            return 0.0
        return self.scale * math.sqrt(n_weights / trace) if self.is_normalized else self.scale


def _wide(gradient: Tensor) -> Tensor:
    return gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32))


def _squared_length(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())
