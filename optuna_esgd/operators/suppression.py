"""Suppression of individuals that learn what a fitter one has learnt already.

After Zhang, Hao, Gao, Wei and Tang, "Optimizing Deep Neural Networks through Neuroevolution with
Stochastic Gradient Descent", arXiv 2012.11184 (2020): similar weight updates among individuals are
suppressed, so that the population stays diverse. The construction is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from optuna_esgd.errors import ConfigurationError
from optuna_esgd.evolution.clustering import cluster_by_layers, less_fit_of_each_cluster


@dataclass(frozen=True)
class ClusterSuppression:
    """Takes the last update away from all but the fittest of each cluster of similar updates.

    The updates of an SGD step are clustered layer by layer by cosine distance, then the
    individuals by the share of layers they fall together in (average linkage both times). Who is
    suppressed goes back to its birth: weights, fitness and optimizer state. So nobody ends worse
    than it was born, and the guarantee of ESGD holds as before; the fittest of a cohort is never
    touched. Who has backed off to its birth anyway has no update and is in no one's cluster.

    Clusters are sought among the individuals that train together (``cohort_size``).

    Args:
        distance: Largest mean cosine distance within a cluster of one layer, in [0, 2]: 0.05 is an
            angle of 18°.
        share: Smallest mean share of layers within a cluster of individuals, in (0, 1].

    Raises:
        ConfigurationError: A number is out of range.
    """

    distance: float = 0.05
    share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse impossible numbers."""
        if not 0 <= self.distance <= 2:
            raise ConfigurationError(f"distance must be in [0, 2], got {self.distance}.")
        if not 0 < self.share <= 1:
            raise ConfigurationError(f"share must be in (0, 1], got {self.share}.")

    def suppressed(
        self, births: Mapping[str, Tensor], ends: Mapping[str, Tensor], fitness: Sequence[float]
    ) -> list[int]:
        """Who loses its update.

        Args:
            births: name -> (individuals, *shape) of each trainable parameter before the SGD step.
            ends: The same after it.
            fitness: (individuals,) after it; lower is better, inf marks a diverged one.

        Returns:
            Indices in ascending order; never the fittest.
        """
        layers = [
            (ends[name].double() - birth.double()).flatten(1).cpu().numpy()
            for name, birth in births.items()
            if birth.numel() > 0
        ]
        has_moved = np.any([np.any(layer != 0, axis=1) for layer in layers], axis=0)
        labels, _ = cluster_by_layers(layers, distance=self.distance, share=self.share)
        less_fit = less_fit_of_each_cluster(labels, fitness)
        return [index for index in less_fit if has_moved[index]]
