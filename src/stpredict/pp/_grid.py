"""Lay spots of a known geometry over a slide, in order to predict there. Nothing here reads pixels."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import shapely
from geopandas import GeoDataFrame

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import grid as check
from .._checks import slides as check_slides
from .._slides import image_resolution, pyramid
from . import elements
from ._grid_area import tissue_share

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ._grid_area import Outline
    from .lattice import Layout

LAYOUTS = {"hexagonal": (np.sqrt(3) / 2, 0.5), "square": (1.0, 0.0)}
"""Distance of rows, and shift of every second row along x, both in pitches."""
OUTLINES = {"circle": 0.5, "square": np.sqrt(0.5)}
"""Distance from the centre of a spot to the farthest point of its outline, in diameters."""
MAX_PLACES = 50_000_000
"""Most places of a lattice that are looked at."""
PLACES_AT_ONCE = 1_000_000
"""Places that are looked at together."""


class Trained(Protocol):
    """What is read of a predictor."""

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What it records about its training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpotGeometry:
    """The spots of one platform."""

    diameter_um: float
    """Diameter of a circle, or side of a square bin, in µm."""
    pitch_um: float
    """Distance between the centres of neighbouring spots in µm."""
    layout: Layout = "square"
    """How the centres lie."""
    outline: Outline = "circle"
    """Shape of a spot."""


PLATFORMS = {
    "visium": SpotGeometry(diameter_um=55, pitch_um=100, layout="hexagonal"),
    "st": SpotGeometry(diameter_um=100, pitch_um=200),
    "visium_hd_8um": SpotGeometry(diameter_um=8, pitch_um=8, outline="square"),
    "visium_hd_16um": SpotGeometry(diameter_um=16, pitch_um=16, outline="square"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Lattice:
    """Places of spots in pixels of an image, counted from its corner: they depend on nothing else."""

    pitch_px: float
    """Distance of neighbouring spots within a row."""
    layout: Layout
    """How the centres lie."""
    width_px: float
    """Width of the image."""
    height_px: float
    """Height of the image."""

    @property
    def row_px(self) -> float:
        """Distance of neighbouring rows."""
        return float(self.pitch_px * LAYOUTS[self.layout][0])

    @property
    def n_columns(self) -> int:
        """Spots of the first row, whose centres lie in the image."""
        return _count(self.width_px, self.pitch_px)

    @property
    def n_rows(self) -> int:
        """Rows whose centres lie in the image."""
        return _count(self.height_px, self.row_px)

    def shift(self, row: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where the first centre of a row lies, in pitches."""
        return np.asarray(0.5 + LAYOUTS[self.layout][1] * (row % 2), np.float64)

    def centres(self, row: NDArray[np.int64], column: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """X and y of places by row and column, in pixels."""
        return (column + self.shift(row)) * self.pitch_px, (row + 0.5) * self.row_px

    def within(self, box: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Spots whose centre lies in the image and in a box.

        Parameters
        ----------
        box
            ``(4,)`` least x, least y, largest x, largest y in pixels.

        Returns
        -------
        ``(n,)`` row-major position in the lattice, ascending, and ``(n, 2)`` centres ``(x, y)``.
        """
        x0, y0, x1, y1 = box
        rows, columns = self._reach(box)
        row, column = (part.ravel() for part in np.meshgrid(rows, columns, indexing="ij"))
        x, y = self.centres(row, column)
        kept = (x < self.width_px) & (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
        return (row * self.n_columns + column)[kept], np.column_stack([x, y])[kept]

    def n_within(self, box: NDArray[np.float64]) -> int:
        """Places that `within` looks at.

        Parameters
        ----------
        box
            ``(4,)`` least x, least y, largest x, largest y in pixels.

        Returns
        -------
        Their number.
        """
        rows, columns = self._reach(box)
        return len(rows) * len(columns)

    def strips(self, box: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
        """A box in strips of about `PLACES_AT_ONCE` places, cut halfway between rows.

        Parameters
        ----------
        box
            ``(4,)`` least x, least y, largest x, largest y in pixels.

        Yields
        ------
        Boxes from top to bottom.
        """
        rows, columns = self._reach(box)
        n_rows = max(1, PLACES_AT_ONCE // max(len(columns), 1))
        for row in range(rows.start, rows.stop, n_rows):
            top, bottom = row * self.row_px, (row + n_rows) * self.row_px
            yield np.array([box[0], max(box[1], top), box[2], min(box[3], bottom)])

    def _reach(self, box: NDArray[np.float64]) -> tuple[range, range]:
        """Rows and columns of which some places may lie in a box."""
        x0, y0, x1, y1 = box
        return (
            _positions(y0, y1, self.row_px, self.n_rows),
            _positions(x0 - self.pitch_px, x1, self.pitch_px, self.n_columns),
        )


def _count(length: float, step: float) -> int:
    return max(int(np.ceil(length / step - 0.5 - 1e-9)), 0)


def _positions(low: float, high: float, step: float, n: int) -> range:
    """Indices of which some may lie between two coordinates."""
    first, last = np.clip([np.floor(low / step) - 1, np.ceil(high / step) + 1], 0, n).astype(np.int64)
    return range(int(first), int(last))


def spot_grid(
    sdata: SpatialData,
    like: str | Trained | None = None,
    *,
    diameter_um: float | None = None,
    pitch_um: float | None = None,
    layout: Layout | None = None,
    tissue_key: str | None = keys.TISSUE,
    min_tissue: float = 0.5,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    key_added: str = keys.GRID,
) -> None:
    """Lay spots of a known geometry over a slide.

    For slides without spots of their own: ``stp.tl.predict(sdata, predictor, shapes_key="grid")`` predicts on them,
    and makes the table. The lattice begins at the corner of the image and lies along its rows and columns: the first
    centre is half a step from either edge, and every spot whose centre lies in the image belongs to it.

    Parameters
    ----------
    sdata
        The object.
    like
        A predictor, for spots as it was trained on (diameter, pitch, layout), or the name of a platform: ``"visium"``
        (hexagonal, 55 µm in diameter, 100 µm apart), ``"st"`` (square, 100 µm and 200 µm), ``"visium_hd_8um"`` and
        ``"visium_hd_16um"`` (square bins, edge to edge). None where ``diameter_um`` and ``pitch_um`` say all.
    diameter_um
        Diameter of a spot, or side of a bin, in µm; counts more than ``like``.
    pitch_um
        Distance between the centres of neighbours in µm; counts more than ``like``. By default what the predictor
        records, or else twice its diameter.
    layout
        ``"hexagonal"`` or ``"square"``; counts more than ``like``. By default what the predictor records, or else
        square.
    tissue_key
        Shapes element with the tissue as polygons. Where there is no ``"tissue"`` the whole image is covered, as it is
        with None.
    min_tissue
        Least fraction of a spot's area on tissue, between 0 and 1.
    image_key
        Image that is meant; by default the only one.
    coordinate_system
        Coordinate system in which image and tissue meet, where they share several.
    um_per_px
        Resolution in µm per full-resolution pixel; by default what the object records.
    key_added
        Shapes element that is written. A grid of an earlier call is replaced, nothing else is.

    Returns
    -------
    Nothing. Writes ``sdata.shapes[key_added]``: circles, or polygons for bins, in full-resolution pixels with the
    transformations of the image. The index (int) is the position in the whole lattice, row by row, so it does not
    depend on the tissue. The geometry is noted in ``sdata.attrs["stpredict"]["grid"][key_added]``; its ``n_columns``
    turns an index into row and column: ``divmod(index, n_columns)``.

    Raises
    ------
    ValueError
        If no spot lies on tissue, the resolution is not known, ``key_added`` is something else than a grid, or more
        than 50 million places would have to be looked at.

    Notes
    -----
    Areas are exact, of circles too. A million spots take seconds, however much they overlap; memory grows with the
    spots that are kept.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.pp.spot_grid(sdata, "visium")
    >>> sdata["grid"].shape, float(sdata["grid"]["radius"].iloc[0])
    ((247, 2), 6.875)
    """
    check_slides.is_spatialdata(sdata)
    check_config.in_range("min_tissue", min_tissue, 0.0, 1.0)
    geometry = _geometry(like, diameter_um, pitch_um, layout)
    check_slides.may_write(sdata, key_added, elements.read_attrs(sdata, keys.GRID), "stp.pp.spot_grid")
    image_key = elements.find_image(sdata, image_key, coordinate_system)
    if um_per_px is not None:
        check.length("um_per_px", um_per_px)
    scale = image_resolution(sdata, image_key, um_per_px)
    height, width = pyramid(sdata.images[image_key])[0].pixels.shape[-2:]
    lattice = Lattice(pitch_px=geometry.pitch_um / scale, layout=geometry.layout, width_px=width, height_px=height)
    tissue = elements.tissue_in_pixels(sdata, tissue_key, image_key, coordinate_system)
    diameter_px = geometry.diameter_um / scale
    box = _box(lattice, OUTLINES[geometry.outline] * diameter_px, tissue if min_tissue else None)
    check.lattice_size(lattice.n_within(box), MAX_PLACES, geometry.pitch_um)
    ids, xy = _kept(lattice, box, diameter_px, geometry.outline, tissue, min_tissue)
    check.not_empty(len(ids), image_key, None if tissue is None else tissue_key, min_tissue)
    elements.write_shapes(sdata, key_added, _frame(ids, xy, diameter_px, geometry.outline), image_key)
    counts = {"n_rows": lattice.n_rows, "n_columns": lattice.n_columns}
    note = {**asdict(geometry), **counts, "image_key": image_key, "um_per_px": scale}
    elements.write_attrs(sdata, keys.GRID, key_added, note)


def _geometry(
    like: str | Trained | None, diameter_um: float | None, pitch_um: float | None, layout: Layout | None
) -> SpotGeometry:
    for name, value in {"diameter_um": diameter_um, "pitch_um": pitch_um}.items():
        if value is not None:
            check.length(name, value)
    if layout is not None:
        check_config.one_of("layout", layout, LAYOUTS)
    if isinstance(like, str):
        check.known_geometry(like, PLATFORMS)
        base = PLATFORMS[like]
    elif like is None:
        diameter, pitch = check.whole_geometry(diameter_um, pitch_um)
        base = SpotGeometry(diameter_um=diameter, pitch_um=pitch)
    else:
        base = _trained_on(like, diameter_um)
    return replace(
        base,
        diameter_um=float(diameter_um or base.diameter_um),
        pitch_um=float(pitch_um or base.pitch_um),
        layout=layout or base.layout,
    )


def _trained_on(predictor: Trained, diameter_um: float | None) -> SpotGeometry:
    provenance = check.trained(predictor)
    diameter = check.recorded_diameter(diameter_um or provenance.get("diameter_um"))
    pitch = float(provenance.get("pitch_um") or 2 * diameter)
    return SpotGeometry(diameter_um=diameter, pitch_um=pitch, layout=provenance.get("layout") or "square")


def _box(lattice: Lattice, reach: float, tissue: Any) -> NDArray[np.float64]:
    """Where centres of spots may lie that touch tissue; the whole image without any."""
    if tissue is None:
        return np.array([0.0, 0.0, lattice.width_px, lattice.height_px])
    if shapely.is_empty(tissue):
        return np.zeros(4)
    return np.asarray(shapely.bounds(tissue)) + reach * np.array([-1, -1, 1, 1])


def _kept(
    lattice: Lattice,
    box: NDArray[np.float64],
    diameter_px: float,
    outline: Outline,
    tissue: Any,
    min_tissue: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Position and centre of the spots that lie on tissue."""
    ids, centres = [np.empty(0, np.int64)], [np.empty((0, 2))]
    for strip in lattice.strips(box):
        some, xy = lattice.within(strip)
        if tissue is not None and min_tissue > 0:
            on_tissue = tissue_share(xy, diameter_px, outline, tissue) >= min_tissue - 1e-6
            some, xy = some[on_tissue], xy[on_tissue]
        ids.append(some)
        centres.append(xy)
    return np.concatenate(ids), np.concatenate(centres)


def _frame(ids: NDArray[np.int64], xy: NDArray[np.float64], diameter_px: float, outline: Outline) -> GeoDataFrame:
    """Circles or square polygons."""
    if outline == "circle":
        return GeoDataFrame({"radius": diameter_px / 2}, geometry=shapely.points(xy), index=ids)
    low, high = xy - diameter_px / 2, xy + diameter_px / 2
    return GeoDataFrame(geometry=shapely.box(*low.T, *high.T), index=ids)
