"""Which individuals moved alike: clusters of their updates, layer by layer.

Notation: n individuals; the update of an individual is how far its SGD step has moved it. A label
is the number of an individual's cluster; clusters are numbered in the order of their first one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from optuna_esgd.evolution.fitness import FloatArray, rank_by_fitness

Labels = npt.NDArray[np.intp]

_ROUNDING = 1e-9  # of a mean of shares, which must not decide


def cosine_distances(updates: FloatArray) -> FloatArray:
    """1 - cos of the angle between every two updates.

    An update that is zero (its individual has backed off to its birth) or not finite points
    nowhere: it is infinitely far from every other one.

    Args:
        updates: (individuals, weights).

    Returns:
        (individuals, individuals) in [0, 2] or inf; the diagonal is 0.
    """
    largest = np.abs(updates).max(axis=1, keepdims=True, initial=0.0)
    has_direction = np.isfinite(largest[:, 0]) & (largest[:, 0] > 0)
    directions = np.zeros_like(updates)
    # Divided by the largest element first, so that no square overflows or vanishes.
    directions[has_direction] = updates[has_direction] / largest[has_direction]
    directions[has_direction] /= np.linalg.norm(directions[has_direction], axis=1, keepdims=True)
    distances: FloatArray = np.clip(1.0 - directions @ directions.T, 0.0, 2.0)
    distances[~has_direction, :] = np.inf
    distances[:, ~has_direction] = np.inf
    np.fill_diagonal(distances, 0.0)
    return distances


def average_linkage(distances: FloatArray, threshold: float) -> Labels:
    """Merge the two clusters with the smallest mean distance until it exceeds the threshold.

    Ties go to the pair that comes first, so the result is a function of the distances alone.

    Args:
        distances: (individuals, individuals), symmetric; inf never merges.
        threshold: Largest mean distance at which clusters are merged.

    Returns:
        (individuals,) labels.
    """
    n = len(distances)
    clusters = [[index] for index in range(n)]
    means = np.array(distances, dtype=np.float64)
    np.fill_diagonal(means, np.inf)
    while len(clusters) > 1:
        first, second = (int(k) for k in np.unravel_index(np.argmin(means), means.shape))
        if not means[first, second] <= threshold:
            break
        sizes = len(clusters[first]), len(clusters[second])
        merged = (sizes[0] * means[first] + sizes[1] * means[second]) / sum(sizes)
        merged[first] = np.inf
        means[first, :] = means[:, first] = merged
        means = np.delete(np.delete(means, second, axis=0), second, axis=1)
        clusters[first] += clusters.pop(second)
    labels = np.empty(n, dtype=np.intp)
    for label, cluster in enumerate(sorted(clusters, key=min)):
        labels[cluster] = label
    return labels


def cluster_by_layers(
    layers: Sequence[FloatArray], *, distance: float, share: float
) -> tuple[Labels, FloatArray]:
    """Cluster individuals hierarchically: layer by layer, then by the layers they share.

    First the updates of each layer are clustered by cosine distance, then the individuals by the
    share of layers in which they fall together; both with average linkage. After Zhang et al.
    2020 (arXiv 2012.11184); the construction is ours.

    Args:
        layers: For each layer, the updates (individuals, weights of the layer).
        distance: Largest mean cosine distance within a cluster of one layer.
        share: Smallest mean share of layers within a cluster of individuals, above 0.

    Returns:
        (individuals,) labels, and the (individuals, individuals) share of layers.
    """
    n = len(layers[0])
    together = np.zeros((n, n))
    for updates in layers:
        labels = average_linkage(cosine_distances(updates), distance)
        together += labels[:, None] == labels[None, :]
    together /= len(layers)
    return average_linkage(1.0 - together, 1.0 - share + _ROUNDING), together


def less_fit_of_each_cluster(labels: Labels, fitness: FloatArray | Sequence[float]) -> list[int]:
    """Everyone but the fittest of each cluster; of equals the first one counts as the fittest.

    Args:
        labels: (individuals,) cluster of each.
        fitness: (individuals,) lower is better; inf marks a diverged one.

    Returns:
        Their indices in ascending order. The best of all is never among them.
    """
    seen: set[int] = set()
    less_fit = []
    for index in rank_by_fitness(fitness).tolist():
        if int(labels[index]) in seen:
            less_fit.append(index)
        seen.add(int(labels[index]))
    return sorted(less_fit)
