"""PathNet's mutation: the path through a network of modules moves, its weights do not.

Fernando et al., "PathNet: Evolution Channels Gradient Descent in Super Neural Networks", arXiv
1701.08734 (2017), section 2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.paths import mutate_path
from optuna_esgd.operators.mutation import Landscape


@runtime_checkable
class HasPath(Protocol):
    """A module with a path of its own, as ``modules.PathwayNetwork`` is one.

    Attributes:
        path: (layers, active) int64 module numbers, in a persistent buffer.
        n_modules: M, modules per layer.
    """

    path: Tensor
    n_modules: int


@dataclass(frozen=True)
class PathMutation:
    """Moves each gene of the offspring's path with probability 1/(L·N) by one of {-2 .. 2}.

    The path is a buffer of the model, so an offspring has its first parent's, and training, back-
    off and checkpoints carry it along with the weights. Weights get no noise: as in the paper they
    change by gradient descent alone. There all paths share one network's modules; here each
    individual has modules of its own, and with one parent per offspring (``n_parents=1``) an
    offspring is the paper's mutated copy of a winner.

    How far a path moves is the paper's and does not shrink with σ; at σ = 0 nothing moves.
    """

    @property
    def n_gradients(self) -> int:
        """None."""
        return 0

    @property
    def n_evaluations(self) -> int:
        """None."""
        return 0

    def check_model(self, model: nn.Module) -> None:
        """Refuse a model without a path.

        Raises:
            ConfigurationError: See above.
        """
        if not any(isinstance(module, HasPath) for module in model.modules()):
            raise ConfigurationError(
                f"{self!r} moves the path of a network of modules, but {type(model).__name__} has "
                "none. Use modules.PathwayNetwork, or a module with the attributes path and "
                "n_modules."
            )

    def mutate(self, model: nn.Module, sigma: float, landscape: Landscape, *, seed: int) -> None:
        """See the class."""
        del sigma, landscape
        rng = np.random.default_rng(seed)
        for module in model.modules():
            if isinstance(module, HasPath):
                path = module.path.cpu().numpy()
                with torch.no_grad():
                    module.path.copy_(torch.from_numpy(mutate_path(path, module.n_modules, rng)))
