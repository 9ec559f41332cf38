from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from optuna_esgd.evolution.clustering import (
    average_linkage,
    cluster_by_layers,
    cosine_distances,
    less_fit_of_each_cluster,
)
from optuna_esgd.evolution.fitness import FloatArray

U, V, W = np.eye(6)[:3]
N = np.eye(6)[5]
PAIRS = np.stack([U, U + 1e-3 * N, V, V + 1e-3 * N, W])


def test_two_pairs_and_one_alone() -> None:
    labels, share = cluster_by_layers([PAIRS], distance=0.05, share=0.5)
    assert labels.tolist() == [0, 0, 1, 1, 2]
    assert share[0, 1] == share[2, 3] == 1
    assert share[0, 2] == 0
    assert less_fit_of_each_cluster(labels, [2.0, 1.0, 3.0, 4.0, 5.0]) == [0, 3]


def test_identical_updates_are_one_cluster() -> None:
    labels, _ = cluster_by_layers([np.tile(U, (7, 1))], distance=0.0, share=1.0)
    assert labels.tolist() == [0] * 7
    assert less_fit_of_each_cluster(labels, [3, 1, 2, 1, 5, 6, 7]) == [0, 2, 3, 4, 5, 6]


def test_individuals_join_by_the_share_of_layers_they_have_in_common() -> None:
    alike, apart = np.stack([U, U, U]), np.stack([U, U, V])
    layers = [alike, apart, apart, apart]  # the third falls together with the first in 1 of 4
    assert cluster_by_layers(layers, distance=0.05, share=0.5)[0].tolist() == [0, 0, 1]
    assert cluster_by_layers(layers, distance=0.05, share=0.25)[0].tolist() == [0, 0, 0]
    assert cluster_by_layers(layers, distance=0.05, share=0.26)[0].tolist() == [0, 0, 1]


def test_length_and_precision_do_not_matter_but_direction_does() -> None:
    distances = cosine_distances(np.stack([U, 1e-200 * U, 1e200 * U, -U]))
    assert distances[0].tolist() == pytest.approx([0, 0, 0, 2])


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_what_has_no_direction_is_alone(value: float) -> None:
    updates = np.stack([U, np.full(6, value), np.full(6, value), U])
    assert average_linkage(cosine_distances(updates), 2.0).tolist() == [0, 1, 2, 0]


def test_linkage_is_by_the_average() -> None:
    positions = np.array([0.0, 1.0, 2.2])
    distances = np.abs(positions[:, None] - positions[None, :])
    # 0 and 1 merge at 1.0; the mean distance of 2.2 to both is 1.7: single linkage would take it
    # at 1.2, complete linkage not before 2.2.
    assert average_linkage(distances, 1.69).tolist() == [0, 0, 1]
    assert average_linkage(distances, 1.71).tolist() == [0, 0, 0]


def reference_linkage(distances: FloatArray, threshold: float) -> list[set[int]]:
    """The definition, without bookkeeping."""
    clusters = [{index} for index in range(len(distances))]
    while len(clusters) > 1:
        means = {
            (a, b): np.mean([distances[i, j] for i in clusters[a] for j in clusters[b]])
            for a in range(len(clusters))
            for b in range(a + 1, len(clusters))
        }
        a, b = min(means, key=means.__getitem__)
        if means[a, b] > threshold:
            break
        clusters[a] |= clusters.pop(b)
    return clusters


@given(
    arrays.arrays(np.float64, (6, 2), elements=st.floats(-1, 1, width=16)), st.floats(0.01, 1.5)
)
def test_it_is_the_definition(points: FloatArray, threshold: float) -> None:
    rng = np.random.default_rng(0)
    points = points + 1e-3 * rng.random(points.shape)  # no ties, where rounding would decide
    distances = np.linalg.norm(points[:, None] - points[None, :], axis=2)
    labels = average_linkage(distances, threshold)
    expected = reference_linkage(distances, threshold)
    found = [set(np.flatnonzero(labels == label).tolist()) for label in range(labels.max() + 1)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    firsts = [min(cluster) for cluster in found]
    assert firsts == sorted(firsts)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=8),
    st.data(),
)
def test_one_of_each_cluster_stays_and_the_best_is_among_them(
    labels: list[int], data: st.DataObject
) -> None:
    fitness = data.draw(
        st.lists(
            st.sampled_from([0.0, 1.0, 2.0, np.inf]), min_size=len(labels), max_size=len(labels)
        )
    )
    less_fit = less_fit_of_each_cluster(np.array(labels), fitness)
    stay = [index for index in range(len(labels)) if index not in less_fit]
    assert sorted(labels[index] for index in stay) == sorted(set(labels))
    for index in less_fit:
        assert any(labels[s] == labels[index] and fitness[s] <= fitness[index] for s in stay)
    assert int(np.argmin(fitness)) in stay
