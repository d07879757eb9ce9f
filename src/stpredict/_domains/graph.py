"""Graphs of spots: which are neighbours in the tissue, and which are alike in a feature space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from ..pp.lattice import infer_lattice

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RING = 1.6
"""Spots on a lattice are neighbours within this many pitches: 8 on a square lattice, 6 on a hexagonal one."""
ON_LATTICE = 0.9
"""Share of spots whose nearest spot is one pitch away (to a tenth), above which spots lie on a lattice."""
N_NEAREST = 6
"""Nearest neighbours of spots that lie on no lattice, for instance cells."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpotGraph:
    """Undirected edges between spots of the same slide."""

    edges: NDArray[np.int64]
    """``(m, 2)``, each edge once, the smaller number first."""
    n_spots: int

    @property
    def directed_edges(self) -> NDArray[np.int64]:
        """``(2 m, 2)``, each edge in both directions."""
        return np.concatenate([self.edges, self.edges[:, ::-1]])

    @property
    def degree(self) -> NDArray[np.int64]:
        """``(n,)`` number of neighbours of each spot."""
        return np.bincount(self.edges.ravel(), minlength=self.n_spots)

    def mean_matrix(self) -> sparse.csr_array:
        """``(n, n)`` matrix that averages a spot and its neighbours."""
        i, j = np.concatenate([self.directed_edges, np.repeat(np.arange(self.n_spots), 2).reshape(-1, 2)]).T
        weight = 1 / (1 + self.degree[i])
        return sparse.csr_array((weight.astype(np.float32), (i, j)), shape=(self.n_spots, self.n_spots))


def spatial_graph(xy: NDArray[np.float64], slide: NDArray[np.int64], n_neighbors: int | None = None) -> SpotGraph:
    """Neighbours in the tissue: the first ring of a lattice, else (or if a number is given) the nearest spots."""
    return _graph_by_slide(xy, slide, lambda own: _neighbors_on_slide(own, n_neighbors))


def feature_graph(features: NDArray[np.floating], slide: NDArray[np.int64], n_neighbors: int) -> SpotGraph:
    """The most similar spots of the same slide in a feature space (Euclidean)."""
    return _graph_by_slide(features, slide, lambda own: _union_of_nearest(None, own, n_neighbors))


def _graph_by_slide(
    points: NDArray[np.floating],
    slide: NDArray[np.int64],
    pairs: Callable[[Any], NDArray[np.intp]],
) -> SpotGraph:
    """The graph whose edges are pairs of the points of each slide."""
    found = [np.empty((0, 2), np.int64)]
    for name in np.unique(slide):
        rows = np.flatnonzero(slide == name)
        if len(rows) > 1:
            found.append(rows[pairs(points[rows])])
    return SpotGraph(edges=np.concatenate(found), n_spots=len(slide))


def _neighbors_on_slide(xy: NDArray[np.float64], n_neighbors: int | None) -> NDArray[np.intp]:
    tree = cKDTree(xy)
    if n_neighbors is None:
        pitch, nearest = infer_lattice(xy)[0] or 0.0, tree.query(xy, 2)[0][:, 1]
        if np.mean(np.abs(nearest / max(pitch, 1e-12) - 1) < 0.1) > ON_LATTICE:
            return np.sort(tree.query_pairs(RING * pitch, output_type="ndarray"), axis=1)
    return _union_of_nearest(tree, xy, n_neighbors or N_NEAREST)


def _union_of_nearest(tree: cKDTree | None, points: NDArray[np.floating], n_neighbors: int) -> NDArray[np.intp]:
    """Pairs of which one is among the nearest of the other; a KD-tree for places, else scikit-learn's choice."""
    k = min(n_neighbors, len(points) - 1)
    if tree is None:
        from sklearn.neighbors import NearestNeighbors

        near = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    else:
        near = tree.query(points, k + 1)[1]
    i = np.repeat(np.arange(len(points)), near.shape[1])
    pairs = np.sort(np.column_stack([i, near.ravel()]), axis=1)
    return np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
