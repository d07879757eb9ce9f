"""Regular lattices of spots: geometries of platforms, spots of an image, and the lattice of measured spots.

Arrays in, arrays out. Nothing here knows of SpatialData.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from .._checks import config as check_config
from .._geometry import spot_pitch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

Layout = Literal["hexagonal", "square"]
Outline = Literal["circle", "square"]

LAYOUTS = {"hexagonal": (np.sqrt(3) / 2, 0.5), "square": (1.0, 0.0)}
"""Distance between rows, and shift of every second row along x, both in pitches."""
OUTLINES = {"circle": 0.5, "square": np.sqrt(0.5)}
"""Distance from the centre of a spot to the farthest point of its outline, in diameters."""
STRIP_PLACES = 1_000_000
"""Places of a lattice that are computed together."""
BORDER_TOLERANCE = 1 + 1e-9
"""A point beyond the border of a spot by no more than this factor lies in it."""


class WithProvenance(Protocol):
    """What is read of a predictor."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Record of its training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpotGeometry:
    """The spots of one platform."""

    diameter_um: float
    """Diameter of a circle, or side of a square bin, in µm."""
    pitch_um: float
    """Distance between the centres of neighbouring spots in µm."""
    layout: Layout = "square"
    """Arrangement of the centres."""
    outline: Outline = "circle"
    """Shape of a spot."""


PLATFORMS = {
    "visium": SpotGeometry(diameter_um=55, pitch_um=100, layout="hexagonal"),
    "st": SpotGeometry(diameter_um=100, pitch_um=200),
    "visium_hd_8um": SpotGeometry(diameter_um=8, pitch_um=8, outline="square"),
    "visium_hd_16um": SpotGeometry(diameter_um=16, pitch_um=16, outline="square"),
}


def spot_geometry(
    like: str | WithProvenance | None,
    diameter_um: float | None,
    pitch_um: float | None,
    layout: Layout | None,
    outline: Outline | None = None,
) -> SpotGeometry:
    """The geometry of a platform or a predictor, with the values that are given in place of its own."""
    check_config.length("diameter_um", diameter_um)
    check_config.length("pitch_um", pitch_um)
    if layout is not None:
        check_config.one_of("layout", layout, LAYOUTS)
    if outline is not None:
        check_config.one_of("outline", outline, OUTLINES)
    if isinstance(like, str):
        check_config.one_of("like", like, PLATFORMS)
        base = PLATFORMS[like]
    elif like is None:
        if diameter_um is None or pitch_um is None:
            msg = (
                f"`diameter_um` is {diameter_um!r} and `pitch_um` is {pitch_um!r}; without `like` both are needed. "
                "Call `stp.pp.spot_grid(sdata, diameter_um=…, pitch_um=…)`, or give `like`."
            )
            raise ValueError(msg)
        base = SpotGeometry(diameter_um=diameter_um, pitch_um=pitch_um)
    else:
        base = _geometry_of_training(like, diameter_um)
    return replace(
        base,
        diameter_um=float(diameter_um or base.diameter_um),
        pitch_um=float(pitch_um or base.pitch_um),
        layout=layout or base.layout,
        outline=outline or base.outline,
    )


def _geometry_of_training(predictor: WithProvenance, diameter_um: float | None) -> SpotGeometry:
    """The spots that a predictor was trained on, by its record, which may lack the diameter if that is given."""
    provenance = getattr(predictor, "provenance", None)
    if not isinstance(provenance, Mapping):
        msg = (
            f"`like` is of type {type(predictor).__name__}; give a predictor, the name of a platform or None. Get a "
            "predictor from `stp.tl.fit` or `stp.tl.Predictor.load`."
        )
        raise TypeError(msg)
    diameter = diameter_um or provenance.get("diameter_um")
    if diameter is None:
        msg = (
            "The predictor does not record the diameter of the spots it was trained on (nothing in "
            "`provenance['diameter_um']`). Give `diameter_um` to `stp.pp.spot_grid`."
        )
        raise ValueError(msg)
    pitch = float(provenance.get("pitch_um") or 2 * diameter)
    return SpotGeometry(diameter_um=float(diameter), pitch_um=pitch, layout=provenance.get("layout") or "square")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpotLattice:
    """Spots of one geometry on one image: their places depend on nothing but its size and resolution.

    The first centre is half a step from either edge. A spot is identified by its place, counted row by row.
    """

    geometry: SpotGeometry
    um_per_px: float
    width_px: int
    height_px: int

    @property
    def diameter_px(self) -> float:
        """Diameter of a circle, or side of a square."""
        return self.geometry.diameter_um / self.um_per_px

    @property
    def pitch_px(self) -> float:
        """Distance between neighbouring spots within a row."""
        return self.geometry.pitch_um / self.um_per_px

    @property
    def row_px(self) -> float:
        """Distance between neighbouring rows."""
        return float(self.pitch_px * LAYOUTS[self.geometry.layout][0])

    @property
    def n_columns(self) -> int:
        """Number of spots of the first row whose centres lie in the image."""
        return _count(self.width_px, self.pitch_px)

    @property
    def n_rows(self) -> int:
        """Number of rows whose centres lie in the image."""
        return _count(self.height_px, self.row_px)

    def centres(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """``(n, 2)`` centres of spots in pixels."""
        return np.column_stack(self._xy(*np.divmod(ids, self.n_columns)))

    def within(self, box: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Ids, ascending, and centres of the spots whose centre lies in the image and in ``(x0, y0, x1, y1)``."""
        x0, y0, x1, y1 = box
        rows, columns = self._rows_and_columns(box)
        row, column = (part.ravel() for part in np.meshgrid(rows, columns, indexing="ij"))
        x, y = self._xy(row, column)
        kept = (x < self.width_px) & (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
        return (row * self.n_columns + column)[kept], np.column_stack([x, y])[kept]

    def n_places(self, box: NDArray[np.float64]) -> int:
        """Number of places that `within` computes."""
        rows, columns = self._rows_and_columns(box)
        return len(rows) * len(columns)

    def strips(self, box: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        """A box in strips of about `STRIP_PLACES` places, from top to bottom, cut halfway between rows."""
        rows, columns = self._rows_and_columns(box)
        n_rows = max(1, STRIP_PLACES // max(len(columns), 1))
        for row in range(rows.start, rows.stop, n_rows):
            top, bottom = row * self.row_px, (row + n_rows) * self.row_px
            yield np.array([box[0], max(box[1], top), box[2], min(box[3], bottom)])

    def assign(self, xy: NDArray[np.float64]) -> NDArray[np.int64]:
        """Id of the spot in which each point ``(n, 2)`` lies, -1 for none; spots must not overlap."""
        found, nearest = np.full(len(xy), -1), np.full(len(xy), np.inf)
        finite = np.isfinite(xy).all(axis=1)
        xy = np.where(finite[:, None], xy, -1e9)
        first = np.floor(xy[:, 1] / self.row_px).astype(np.int64)
        for step in (0, 1, -1) if self.geometry.outline == "circle" else (0,):
            ids, distance = self._nearest_in_row(xy, first + step)
            closer = distance < nearest
            found[closer], nearest[closer] = ids[closer], distance[closer]
        return found

    def _nearest_in_row(
        self, xy: NDArray[np.float64], row: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The nearest spot of a row and the distance to its centre; infinity where the point is outside of it."""
        n_rows, n_columns = self.n_rows, self.n_columns
        column = np.floor(xy[:, 0] / self.pitch_px - self._shift(row) + 0.5).astype(np.int64)
        x, y = self._xy(row, column)
        dx, dy = np.abs(xy[:, 0] - x), np.abs(xy[:, 1] - y)
        distance = np.hypot(dx, dy)
        reach = distance if self.geometry.outline == "circle" else np.maximum(dx, dy)
        inside = (reach <= self.diameter_px / 2 * BORDER_TOLERANCE) & (x < self.width_px)
        inside &= (row >= 0) & (row < n_rows) & (column >= 0) & (column < n_columns)
        return row * n_columns + column, np.where(inside, distance, np.inf)

    def _xy(self, row: NDArray[np.int64], column: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        return (column + self._shift(row)) * self.pitch_px, (row + 0.5) * self.row_px

    def _shift(self, row: NDArray[np.int64]) -> NDArray[np.float64]:
        """First centre of each row along x, in pitches."""
        return np.asarray(0.5 + LAYOUTS[self.geometry.layout][1] * (row % 2), np.float64)

    def _rows_and_columns(self, box: NDArray[np.float64]) -> tuple[range, range]:
        """Rows and columns of which some places may lie in a box."""
        x0, y0, x1, y1 = box
        rows = _index_range(y0, y1, self.row_px, self.n_rows)
        return rows, _index_range(x0 - self.pitch_px, x1, self.pitch_px, self.n_columns)


def _count(length: float, step: float) -> int:
    return max(int(np.ceil(length / step - 0.5 - 1e-9)), 0)


def _index_range(low: float, high: float, step: float, n: int) -> range:
    first, last = np.clip([np.floor(low / step) - 1, np.ceil(high / step) + 1], 0, n).astype(np.int64)
    return range(int(first), int(last))


def infer_lattice(xy: NDArray[np.float64]) -> tuple[float | None, Layout]:
    """Pitch (None for fewer than two spots) and layout of measured spots ``(n, 2)``, turned by any angle.

    The layout is hexagonal where directions to neighbours repeat every 60 degrees more than every 90.
    """
    from scipy.spatial import cKDTree

    if len(xy) < 2:
        return None, "square"
    pairs = cKDTree(xy).query_pairs(1.25 * spot_pitch(xy), output_type="ndarray")
    step = (xy[pairs[:, 1]] - xy[pairs[:, 0]]) @ np.array([1, 1j])
    distance = np.abs(step)
    direction = step / np.maximum(distance, 1e-12)
    six, four = (abs((direction**n).sum()) for n in (6, 4))
    return float(np.median(distance)), "hexagonal" if six > four else "square"
