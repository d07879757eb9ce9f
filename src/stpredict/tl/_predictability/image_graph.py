"""Nearest neighbours in image space, and a permutation test that keeps spatial autocorrelation. Arrays only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...metrics import pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

BLOCK_SPOTS = 512
"""Spots whose distances to all others are in memory at a time."""
MIN_DISTANCE = 2.0
"""Minimum distance of neighbours on the same slide, in pitches."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageSpace:
    """Spots with their image features and positions."""

    features: NDArray[np.float32]
    """``(n, d)``, standardised within each slide."""
    xy_um: NDArray[np.float64]
    """``(n, 2)``."""
    slide: NDArray[np.int64]
    """``(n,)`` slide of each spot."""
    group: NDArray[np.str_]
    """``(n,)`` group of each spot."""
    pitch_um: float
    """Distance of neighbouring spots."""

    @property
    def neighbors_from(self) -> str:
        """Where neighbours are taken from: ``"other groups"``, ``"other slides"`` or ``"the same slide"``."""
        if len(np.unique(self.group)) > 1:
            return "other groups"
        return "other slides" if len(np.unique(self.slide)) > 1 else "the same slide"

    def neighbors(self, n_neighbors: int) -> NDArray[np.intp]:
        """Positions of the nearest neighbours in image space, ``(n, k)``; fewer if a spot has fewer candidates."""
        parts = [np.arange(len(self.slide))[i : i + BLOCK_SPOTS] for i in range(0, len(self.slide), BLOCK_SPOTS)]
        k = min(n_neighbors, *(int(self._allowed(rows).sum(axis=1).min()) for rows in parts))
        if k < 1:
            msg = (
                "Some spots have no other spot that is at least two spot distances away, so they have no "
                "neighbours in image space. Give several slides to `stp.tl.predictability`, or larger ones."
            )
            raise ValueError(msg)
        squares = (self.features.astype(np.float64) ** 2).sum(axis=1)
        found = []
        for rows in parts:
            distance = squares - 2 * self.features[rows].astype(np.float64) @ self.features.T
            distance[~self._allowed(rows)] = np.inf
            found.append(np.argpartition(distance, k - 1, axis=1)[:, :k])
        return np.concatenate(found)

    def weights(self, n_neighbors: int) -> csr_array:
        """``(n, n)`` matrix that averages over the nearest neighbours."""
        from scipy.sparse import csr_array

        columns = self.neighbors(n_neighbors)
        n, k = columns.shape
        weight = np.full(n * k, 1 / k, np.float32)
        return csr_array((weight, columns.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))

    def _allowed(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Candidate neighbours of some spots, ``(len(rows), n)``."""
        if self.neighbors_from == "the same slide":
            offset = self.xy_um[rows, None] - self.xy_um
            far: NDArray[np.bool_] = np.hypot(offset[..., 0], offset[..., 1]) > (MIN_DISTANCE + 0.05) * self.pitch_um
            return far
        names = self.group if self.neighbors_from == "other groups" else self.slide
        different: NDArray[np.bool_] = names[rows, None] != names
        return different


def pearson_within_slides(
    values: NDArray[np.floating], other: NDArray[np.floating], slide: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean over slides of the correlation of each gene across spots; 0 where one of the two is constant."""
    found = [pearson(values[slide == name], other[slide == name]) for name in np.unique(slide)]
    return np.nan_to_num(np.stack(found)).mean(axis=0)


def torus_shift_permutation(
    xy_um: NDArray[np.float64], slide: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Permute spots within slides so that neighbours stay together: rotate, shift, and reflect at the edges.

    Returns for each spot the spot of the same slide whose value it takes; a spot may be used twice. Reflection replaces
    the wrap-around of a torus, which would put opposite edges beside each other.
    """
    from scipy.spatial import cKDTree

    permutation = np.empty(len(slide), np.intp)
    for name in np.unique(slide):
        rows = np.flatnonzero(slide == name)
        xy = xy_um[rows] - xy_um[rows].mean(axis=0)
        angle = rng.uniform(0, 2 * np.pi)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        low, side = xy.min(axis=0), np.maximum(np.ptp(xy, axis=0), 1e-9)
        moved = (xy @ rotation - low + rng.uniform(0, 2, 2) * side) % (2 * side)
        permutation[rows] = rows[cKDTree(xy).query(low + side - np.abs(side - moved))[1]]
    return permutation
