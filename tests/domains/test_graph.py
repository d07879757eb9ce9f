"""Graphs of spots: lattices, cells, several slides."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict._domains.graph import feature_graph, spatial_graph

SQUARE = np.stack(np.meshgrid(np.arange(8.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
HEXAGONAL = SQUARE * [1, np.sqrt(3) / 2] + np.where(SQUARE[:, 1:] % 2 == 1, [0.5, 0], 0)
ONE = np.zeros(48, np.int64)


@pytest.mark.parametrize(("xy", "inner"), [(SQUARE, 8), (HEXAGONAL, 6)])
def test_first_ring_of_a_lattice_in_any_unit(xy, inner):
    graph = spatial_graph(xy * 100, ONE)
    middle = (xy > 1.9).all(axis=1) & (xy < [5.1, 3.1]).all(axis=1)
    assert middle.any()
    assert (graph.degree[middle] == inner).all()
    assert (graph.edges[:, 0] < graph.edges[:, 1]).all()
    assert len(np.unique(graph.edges, axis=0)) == len(graph.edges)


def test_given_number_of_neighbors_is_a_union():
    graph = spatial_graph(SQUARE, ONE, 3)
    distance = np.hypot(*(SQUARE[:, None] - SQUARE).transpose(2, 0, 1))
    np.fill_diagonal(distance, np.inf)
    for i, j in graph.edges:
        assert distance[i, j] <= max(np.sort(distance[i])[2], np.sort(distance[j])[2])
    assert (graph.degree >= 3).all()


def test_cells_have_nearest_neighbors_and_none_is_isolated():
    xy = np.random.default_rng(0).uniform(0, 50, (200, 2))
    assert (spatial_graph(xy, np.zeros(200, np.int64)).degree >= 6).all()


def test_spots_of_two_slides_are_no_neighbors_and_a_lone_spot_has_none():
    slide = np.r_[ONE, ONE + 1, 2]
    graph = spatial_graph(np.r_[SQUARE, SQUARE, [[0, 0]]], slide)
    assert (slide[graph.edges[:, 0]] == slide[graph.edges[:, 1]]).all()
    assert graph.degree[-1] == 0
    similar = feature_graph(np.r_[SQUARE, SQUARE, [[0, 0]]].astype(np.float32), slide, 4)
    assert (slide[similar.edges[:, 0]] == slide[similar.edges[:, 1]]).all()


def test_mean_matrix_averages_a_spot_and_its_neighbors():
    graph = spatial_graph(SQUARE, ONE)
    values = np.random.default_rng(0).normal(size=(48, 2)).astype(np.float32)
    near = np.hypot(*(SQUARE[:, None] - SQUARE).transpose(2, 0, 1)) < 1.5
    expected = np.stack([values[row].mean(axis=0) for row in near])
    np.testing.assert_allclose(graph.mean_matrix() @ values, expected, rtol=1e-5)


def test_the_order_of_spots_does_not_matter():
    order = np.random.default_rng(1).permutation(48)
    graph, other = spatial_graph(SQUARE, ONE), spatial_graph(SQUARE[order], ONE)
    assert {tuple(sorted(order[edge])) for edge in other.edges} == {tuple(edge) for edge in graph.edges.tolist()}
