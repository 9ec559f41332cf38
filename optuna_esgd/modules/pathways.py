"""PathNet: layers of modules, of which a path uses a few (Fernando et al., arXiv 1701.08734).

Notation: see ``evolution.paths``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.paths import Path, random_path


class PathwayNetwork(nn.Module):
    """A network of modules whose active ones are summed layer by layer.

    Each module is a linear layer with a ReLU. The defaults are those of the paper's MNIST
    experiment. Inactive modules take no part: their gradients are None and no optimizer moves
    them.

    One network serves many paths, which ``forward`` is then given; or it has one of its own, the
    buffer ``path``, drawn when it is made. A population inherits that one with the weights, and
    ``operators.PathMutation`` moves it.

    Args:
        in_features: Width of the flattened input.
        n_classes: Outputs of the head, which is not part of any path.
        layers: L.
        modules: M per layer.
        active: N, at most M.
        width: Units per module.

    Raises:
        ConfigurationError: A number below 1, or ``active`` above ``modules``.

    Attributes:
        path: (layers, active) int64 module numbers, its own path.
        n_modules: M.
    """

    path: Tensor

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        layers: int = 3,
        modules: int = 10,
        active: int = 3,
        width: int = 20,
    ) -> None:
        super().__init__()
        sizes = (in_features, n_classes, layers, modules, active, width)
        if min(sizes) < 1 or active > modules:
            raise ConfigurationError(
                "All sizes must be 1 or more and active at most modules, got "
                f"in_features={in_features}, n_classes={n_classes}, layers={layers}, "
                f"modules={modules}, active={active}, width={width}."
            )
        self.n_layers, self.n_modules, self.n_active = layers, modules, active
        widths = [in_features, *[width] * layers]
        self.grid = nn.ModuleList(
            nn.ModuleList(nn.Linear(widths[layer], width) for _ in range(modules))
            for layer in range(layers)
        )
        self.head = nn.Linear(width, n_classes)
        self.register_buffer("path", torch.randint(modules, (layers, active)))

    def random_path(self, rng: np.random.Generator) -> Path:
        """A path of this network."""
        return random_path(self.n_layers, self.n_modules, self.n_active, rng)

    def forward(
        self, inputs: Tensor, path: Path | Tensor | Sequence[Sequence[int]] | None = None
    ) -> Tensor:
        """Class scores along a path.

        Args:
            inputs: (batch, ...) flattened to (batch, in_features).
            path: (layers, active) module numbers; its own if None.

        Raises:
            ConfigurationError: The path is of another shape or names modules there are not.
        """
        features = inputs.flatten(1)
        active = self._active(self.path if path is None else path)
        for layer, numbers in zip(self.grid, active, strict=True):
            assert isinstance(layer, nn.ModuleList)  # noqa: S101  (made so above)
            outputs = [torch.relu(layer[number](features)) for number in numbers]
            features = torch.stack(outputs).sum(0)
        scores: Tensor = self.head(features)
        return scores

    def freeze_path(
        self, path: Path | Tensor | Sequence[Sequence[int]], generator: torch.Generator
    ) -> None:
        """Keep what a path has learnt: its modules freeze, all others and the head start anew.

        Frozen modules lose their gradients for good (``requires_grad=False``), and stay part of
        the layers that other paths run through. Those frozen before stay frozen.

        Args:
            path: The winner of the task that is done.
            generator: Source of the new weights, drawn as ``nn.Linear`` draws its own.
        """
        active = self._active(path)
        for layer, numbers in zip(self.grid, active, strict=True):
            assert isinstance(layer, nn.ModuleList)  # noqa: S101  (made so above)
            for number, module in enumerate(layer):
                assert isinstance(module, nn.Linear)  # noqa: S101  (made so above)
                if number in numbers:
                    module.requires_grad_(False)
                    module.weight.grad = module.bias.grad = None
                elif module.weight.requires_grad:
                    _reset(module, generator)
        _reset(self.head, generator)

    def _active(self, path: Path | Tensor | Sequence[Sequence[int]]) -> list[list[int]]:
        """The modules of each layer, each once, in ascending order."""
        numbers = np.asarray(path.tolist() if isinstance(path, Tensor) else path)
        shape = (self.n_layers, self.n_active)
        if numbers.shape != shape or not np.issubdtype(numbers.dtype, np.integer):
            raise ConfigurationError(
                f"A path is {shape} whole numbers, got {numbers.dtype} {numbers.shape}."
            )
        if numbers.min() < 0 or numbers.max() >= self.n_modules:
            raise ConfigurationError(
                f"Modules are numbered 0 to {self.n_modules - 1}, got {numbers.tolist()}."
            )
        return [sorted(set(row)) for row in numbers.tolist()]


@torch.no_grad()
def _reset(module: nn.Linear, generator: torch.Generator) -> None:
    """Draw a linear layer's weights as torch does: evenly within ±1/√(inputs)."""
    bound = module.in_features**-0.5
    for parameter in module.parameters():
        parameter.uniform_(-bound, bound, generator=generator)
