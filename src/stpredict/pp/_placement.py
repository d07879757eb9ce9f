"""In which spot of a lattice a point lies. Arrays in, numbers out; the lattice is that of `_grid`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .._checks import config as check_config
from .._checks import pseudo_spots as check
from ._grid import LAYOUTS, OUTLINES, Lattice, _geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ._grid import SpotGeometry, Trained
    from ._grid_area import Outline
    from .lattice import Layout

SLACK = 1 + 1e-9
"""A point so little beyond the border of a spot lies in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spots:
    """Spots of one geometry on one image; they do not overlap."""

    geometry: SpotGeometry
    """Their size in µm."""
    um_per_px: float
    """Resolution of the image."""
    width_px: int
    """Width of the image."""
    height_px: int
    """Height of the image."""

    @property
    def diameter_px(self) -> float:
        """Diameter of a circle, or side of a square."""
        return self.geometry.diameter_um / self.um_per_px

    @property
    def lattice(self) -> Lattice:
        """Where they lie."""
        return Lattice(
            pitch_px=self.geometry.pitch_um / self.um_per_px,
            layout=self.geometry.layout,
            width_px=self.width_px,
            height_px=self.height_px,
        )

    def place(self, xy: NDArray[np.float64]) -> NDArray[np.int64]:
        """The spot in which each point lies.

        Parameters
        ----------
        xy
            ``(n, 2)`` points in pixels of the image.

        Returns
        -------
        ``(n,)`` place in the lattice, row by row; -1 for points in no spot.
        """
        found, nearest = np.full(len(xy), -1), np.full(len(xy), np.inf)
        finite = np.isfinite(xy).all(axis=1)
        at = np.where(finite[:, None], xy, -1e9)
        first = np.floor(at[:, 1] / self.lattice.row_px).astype(np.int64)
        for step in (0, 1, -1) if self.geometry.outline == "circle" else (0,):
            place, distance = self._in_row(at, first + step)
            closer = distance < nearest
            found[closer], nearest[closer] = place[closer], distance[closer]
        return found

    def _in_row(self, xy: NDArray[np.float64], row: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The nearest spot of a row, and how far its centre is; infinitely where the point is not inside."""
        lattice = self.lattice
        n_rows, n_columns = lattice.n_rows, lattice.n_columns
        column = np.floor(xy[:, 0] / lattice.pitch_px - lattice.shift(row) + 0.5).astype(np.int64)
        x, y = lattice.centres(row, column)
        dx, dy = np.abs(xy[:, 0] - x), np.abs(xy[:, 1] - y)
        distance = np.hypot(dx, dy)
        reach = distance if self.geometry.outline == "circle" else np.maximum(dx, dy)
        inside = (reach <= self.diameter_px / 2 * SLACK) & (x < lattice.width_px)
        inside &= (row >= 0) & (row < n_rows) & (column >= 0) & (column < n_columns)
        return row * n_columns + column, np.where(inside, distance, np.inf)

    def centres(self, place: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where spots lie.

        Parameters
        ----------
        place
            ``(n,)`` places in the lattice.

        Returns
        -------
        ``(n, 2)`` centres in pixels of the image.
        """
        row, column = np.divmod(place, self.lattice.n_columns)
        return np.column_stack(self.lattice.centres(row, column))


def spot_geometry(
    like: str | Trained | None,
    diameter_um: float | None,
    pitch_um: float | None,
    layout: Layout | None,
    outline: Outline | None,
) -> SpotGeometry:
    """The geometry that is meant, if its spots do not overlap.

    Parameters
    ----------
    like
        A predictor, the name of a platform, or None.
    diameter_um, pitch_um, layout, outline
        What counts more than ``like``.

    Returns
    -------
    The geometry.
    """
    if outline is not None:
        check_config.one_of("outline", outline, OUTLINES)
    base = _geometry(like, diameter_um, pitch_um, layout)
    geometry = replace(base, outline=outline or base.outline)
    rows = 1.0 if geometry.outline == "circle" else LAYOUTS[geometry.layout][0]
    check.apart(geometry.diameter_um, geometry.pitch_um * rows, geometry.outline)
    return geometry
