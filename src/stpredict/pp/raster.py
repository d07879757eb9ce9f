"""Rasterise spots that lie on a regular lattice, as pixels of an image. Arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .lattice import Layout

TOLERANCE = 0.1
"""Largest distance of a spot from its place on the lattice, in pitches."""
N_NEIGHBOURS, N_SAMPLED = 6, 512
"""Number of neighbours, and of spots, from which pitch and directions are estimated."""
N_FITTED = 20_000
"""Number of spots to which pitch and directions are fitted."""
MAX_ROW_ANGLE = np.pi / 12
"""Rows of a hexagonal lattice that are turned further than this are columns."""
SWAP = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
"""Exchanges x and y."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Raster:
    """The pixels of a lattice: one for each place of a square lattice, two side by side of a hexagonal one."""

    layout: Layout
    matrix: NDArray[np.float64]
    """``(3, 3)`` from pixels ``(x, y)`` to the coordinates of the places; pixel ``i`` covers ``[i, i + 1)``."""
    height: int
    width: int
    row: NDArray[np.int64]
    """``(n,)`` first pixel of each place along y."""
    column: NDArray[np.int64]
    """``(n,)`` first pixel of each place along x."""
    down: int = 1
    """Pixels of a place along y."""
    across: int = 1
    """Pixels of a place along x."""

    def band(self, top: int, bottom: int) -> tuple[NDArray[np.intp], Raster]:
        """Positions, ascending, of the places with pixels in rows ``top`` to ``bottom``, and their raster."""
        places = np.flatnonzero((self.row + self.down > top) & (self.row < bottom))
        part = replace(self, height=bottom - top, row=self.row[places] - top, column=self.column[places])
        return places, part

    def paint(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """``(k, height, width)`` image of the values ``(n, k)`` of the places; NaN where there is no place."""
        image = np.full((values.shape[1], self.height, self.width), np.nan, np.float32)
        for y in range(self.down):
            inside = (self.row + y >= 0) & (self.row + y < self.height)
            row, column, painted = self.row[inside] + y, self.column[inside], values[inside].T
            for x in range(self.across):
                image[:, row, column + x] = painted
        return image


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Basis:
    """A lattice by its basis vectors: places are at ``origin + whole numbers @ steps``."""

    layout: Layout
    origin: NDArray[np.float64]
    steps: NDArray[np.float64]
    """``(2, 2)`` a row each: one pixel to the right, one down. In a hexagonal lattice a place is two pixels wide."""
    pitch: float
    swapped: bool = False
    """Whether x and y are exchanged: a hexagonal lattice that is staggered along y."""

    def indices(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Nearest place of each point, as whole steps ``(n, 2)`` to the right and down."""
        right, down = ((xy - self.origin) @ np.linalg.inv(self.steps)).T
        row = np.rint(down)
        column = np.rint(right) if self.layout == "square" else 2 * np.rint((right - row) / 2) + row
        return np.column_stack([column, row])

    def refit(self, xy: NDArray[np.float64]) -> _Basis:
        """Origin and steps by least squares from points."""
        whole = self.indices(xy)
        design = np.column_stack([whole, np.ones(len(xy))])
        change = np.linalg.lstsq(design, xy - whole @ self.steps - self.origin, rcond=None)[0]
        return replace(self, steps=self.steps + change[:2], origin=self.origin + change[2])


def fit_raster(xy: NDArray[np.float64]) -> Raster | None:
    """Fit a square or hexagonal lattice to spots ``(n, 2)`` in any order, with gaps, turned by any angle.

    None where they lie on none, each on a place of its own and within a tenth of the pitch. Pitch and directions come
    from nearest neighbours, and are fitted again to the spots within a distance that doubles until it holds all of
    them. A square lattice becomes one pixel a place, with the place at its centre. A hexagonal one is painted as
    bricks: pixels of half a pitch along the rows, as high as rows are apart; every place has the two pixels beside its
    centre, which are nearest to it.
    """
    if len(xy) < 4:
        return None
    found = _estimate_basis(xy)
    if found is None:
        return None
    points = xy[:, ::-1] if found.swapped else xy
    found = _refine(found, points)
    whole = found.indices(points)
    off = np.abs(points - found.origin - whole @ found.steps).max()
    if off > TOLERANCE * found.pitch:
        return None
    return _pixels(found, whole.astype(np.int64))


def _estimate_basis(xy: NDArray[np.float64]) -> _Basis | None:
    """Layout, pitch and directions from the nearest neighbours of some spots."""
    from scipy.spatial import cKDTree  # costs 100 ms of import

    some = xy[:: max(len(xy) // N_SAMPLED, 1)]
    tree = cKDTree(xy, balanced_tree=False, compact_nodes=False)
    distance, index = tree.query(some, k=min(N_NEIGHBOURS, len(xy) - 1) + 1)
    nearest = float(np.median(distance[:, 1]))
    near = (distance > 0) & (distance < 1.2 * nearest)
    if not near.any():  # all in one place
        return None
    step = (xy[index] - some[:, None])[near]
    pitch, angle = float(np.median(distance[near])), np.arctan2(step[:, 1], step[:, 0])
    fourfold, sixfold = (np.exp(1j * fold * angle).mean() for fold in (4, 6))
    origin = some[len(some) // 2]
    if abs(sixfold) < abs(fourfold) + 0.1:
        return _Basis(layout="square", origin=origin, steps=pitch * _rotation(np.angle(fourfold) / 4), pitch=pitch)
    turn = float(np.angle(sixfold) / 6)
    swapped = abs(turn) > MAX_ROW_ANGLE
    if swapped:
        origin, turn = origin[::-1], np.copysign(np.pi / 6, turn) - turn
    steps = pitch * np.array([[0.5], [np.sqrt(3) / 2]]) * _rotation(turn)
    return _Basis(layout="hexagonal", origin=origin, steps=steps, pitch=pitch, swapped=swapped)


def _rotation(angle: float) -> NDArray[np.float64]:
    """Unit vectors to the right and down, rotated."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, sine], [-sine, cosine]])


def _refine(found: _Basis, points: NDArray[np.float64]) -> _Basis:
    """Origin and steps fitted to more and more spots, since a small error of the steps grows with distance."""
    distance = np.abs(points - found.origin).max(axis=1)
    reach, farthest = 8 * found.pitch, float(distance.max())
    while True:
        inside = np.flatnonzero(distance <= reach)
        found = found.refit(points[inside[:: max(len(inside) // N_FITTED, 1)]])
        if reach >= farthest:
            break
        reach *= 2
    exact = np.where(np.abs(found.steps) < 1e-9 * found.pitch, 0.0, found.steps)
    return replace(found, steps=exact)


def _pixels(found: _Basis, whole: NDArray[np.int64]) -> Raster | None:
    """Places in whole steps as pixels; None where two places share one."""
    across = 1 if found.layout == "square" else 2
    first = whole.min(axis=0)
    column, row = (whole - first).T
    width, height = int(column.max()) + across, int(row.max()) + 1
    if not np.diff(np.sort(row * width + column)).all():
        return None
    matrix = np.eye(3)
    matrix[:2, :2] = found.steps.T
    matrix[:2, 2] = found.origin + (first - np.array([across / 2, 0.5])) @ found.steps
    down = 1
    if found.swapped:
        matrix, height, width, row, column = SWAP @ matrix @ SWAP, width, height, column, row
        down, across = across, down
    return Raster(
        layout=found.layout, matrix=matrix, height=height, width=width, row=row, column=column, down=down, across=across
    )
