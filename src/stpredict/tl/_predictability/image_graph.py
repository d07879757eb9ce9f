"""Spots that look alike, and what their expression says of each other. Arrays only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..._checks import predictability as check
from ...metrics import pearson

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_array

AT_ONCE = 512
"""Spots whose distances to all others are held at a time."""
FAR = 2.0
"""Neighbours on the same slide are at least this many pitches away."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spots:
    """Where spots are, on slides and in image space."""

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
    def apart(self) -> str:
        """Where neighbours are looked for: ``"other groups"``, ``"other slides"`` or ``"the same slide"``."""
        if len(np.unique(self.group)) > 1:
            return "other groups"
        return "other slides" if len(np.unique(self.slide)) > 1 else "the same slide"

    def neighbors(self, n_neighbors: int) -> NDArray[np.intp]:
        """The spots that look most alike, elsewhere.

        Parameters
        ----------
        n_neighbors
            How many.

        Returns
        -------
        ``(n, n_neighbors)`` positions; fewer columns where a spot has fewer to choose from.
        """
        parts = [np.arange(len(self.slide))[i : i + AT_ONCE] for i in range(0, len(self.slide), AT_ONCE)]
        most = min(n_neighbors, *(int(self._allowed(rows).sum(axis=1).min()) for rows in parts))
        check.distant_spots(most)
        squares = (self.features.astype(np.float64) ** 2).sum(axis=1)
        found = []
        for rows in parts:
            distance = squares - 2 * self.features[rows].astype(np.float64) @ self.features.T
            distance[~self._allowed(rows)] = np.inf
            found.append(np.argpartition(distance, most - 1, axis=1)[:, :most])
        return np.concatenate(found)

    def weights(self, n_neighbors: int) -> csr_array:
        """What takes the mean over neighbours.

        Parameters
        ----------
        n_neighbors
            How many.

        Returns
        -------
        ``(n, n)`` float32, rows sum to 1.
        """
        from scipy.sparse import csr_array

        columns = self.neighbors(n_neighbors)
        n, k = columns.shape
        share = np.full(n * k, 1 / k, np.float32)
        return csr_array((share, columns.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))

    def _allowed(self, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Which spots may be neighbours of some, ``(len(rows), n)``."""
        if self.apart == "the same slide":
            away = self.xy_um[rows, None] - self.xy_um
            far: NDArray[np.bool_] = np.hypot(away[..., 0], away[..., 1]) > (FAR + 0.05) * self.pitch_um
            return far
        names = self.group if self.apart == "other groups" else self.slide
        other: NDArray[np.bool_] = names[rows, None] != names
        return other


def standardised(features: NDArray[np.float32], slide: NDArray[np.int64]) -> NDArray[np.float32]:
    """Features of mean 0 and standard deviation 1 on each slide: stain and scanner shift all spots of it alike.

    Parameters
    ----------
    features
        ``(n, d)``.
    slide
        ``(n,)``.

    Returns
    -------
    ``(n, d)`` float32.
    """
    found = np.empty(features.shape, np.float32)
    for name in np.unique(slide):
        part = features[slide == name].astype(np.float64)
        std = part.std(axis=0)
        found[slide == name] = (part - part.mean(axis=0)) / np.where(std > 1e-6, std, 1.0)
    return found


def within_slides(
    values: NDArray[np.floating], other: NDArray[np.floating], slide: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Correlation of each gene over the spots of a slide, averaged over slides; 0 where one of the two is constant.

    Parameters
    ----------
    values, other
        ``(n, g)``.
    slide
        ``(n,)``.

    Returns
    -------
    ``(g,)``.
    """
    found = [pearson(values[slide == name], other[slide == name]) for name in np.unique(slide)]
    return np.nan_to_num(np.stack(found)).mean(axis=0)


def displaced(xy_um: NDArray[np.float64], slide: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.intp]:
    """Other places for the values of spots, neighbours together: slides are turned, shifted, folded back at the edges.

    Parameters
    ----------
    xy_um
        ``(n, 2)``.
    slide
        ``(n,)``.
    rng
        Source of randomness.

    Returns
    -------
    ``(n,)`` for each spot, the spot of the same slide whose value it takes; some may be taken twice.
    """
    from scipy.spatial import cKDTree

    taken = np.empty(len(slide), np.intp)
    for name in np.unique(slide):
        rows = np.flatnonzero(slide == name)
        xy = xy_um[rows] - xy_um[rows].mean(axis=0)
        angle = rng.uniform(0, 2 * np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        low, side = xy.min(axis=0), np.maximum(np.ptp(xy, axis=0), 1e-9)
        moved = (xy @ turn - low + rng.uniform(0, 2, 2) * side) % (2 * side)
        taken[rows] = rows[cKDTree(xy).query(low + side - np.abs(side - moved))[1]]
    return taken
