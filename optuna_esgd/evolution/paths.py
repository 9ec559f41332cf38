"""Paths through layers of modules (Fernando et al. 2017, PathNet): how they are drawn and mutated.

Notation: L layers of M modules; a path names at most N modules in each layer. Its genotype is an
L x N array of module numbers; a module named twice is used once.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Path: TypeAlias = npt.NDArray[np.int64]


def random_path(layers: int, modules: int, active: int, rng: np.random.Generator) -> Path:
    """Draw a path evenly: (layers, active) numbers in [0, modules)."""
    return rng.integers(modules, size=(layers, active), dtype=np.int64)


def mutate_path(path: Path, modules: int, rng: np.random.Generator) -> Path:
    """Move each gene with probability 1/(L·N) by a whole number from {-2 .. 2}, wrapping.

    A draw of 0 leaves the gene as it was, so that 0.8 genes change on average.

    Args:
        path: (layers, active).
        modules: M, which the numbers wrap around at.
        rng: The stream of this mutation.

    Returns:
        A new path (Fernando et al. 2017, section 2.2).
    """
    is_touched = rng.random(path.shape) < 1.0 / path.size
    moved: Path = (path + is_touched * rng.integers(-2, 3, size=path.shape)) % modules
    return moved
