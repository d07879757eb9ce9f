"""Lay spots of a known geometry over a slide, in order to predict there. Nothing here reads pixels."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import shapely
from geopandas import GeoDataFrame
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import grid as check
from .._checks import slides as check_slides
from .._geometry import apply_affine, axis_scales
from .._slides import affine_matrix, pyramid, resolution

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

logger = logging.getLogger(__name__)

Layout = Literal["hexagonal", "square"]
Outline = Literal["circle", "square"]

LAYOUTS = {"hexagonal": (np.sqrt(3) / 2, 0.5), "square": (1.0, 0.0)}
"""Distance of rows, and shift of every second row along x, both in pitches."""
OUTLINES = {"circle": 0.5, "square": np.sqrt(0.5)}
"""Distance from the centre of a spot to the farthest point of its outline, in diameters."""
MAX_VERTICES = 64
"""Tissue is cut into pieces of about so many vertices, so that areas are found quickly."""


class Trained(Protocol):
    """What is read of a predictor."""

    provenance: dict[str, Any]


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
        rows = _positions(y0, y1, self.row_px, self.n_rows)
        columns = _positions(x0 - self.pitch_px, x1, self.pitch_px, self.n_columns)
        row, column = (part.ravel() for part in np.meshgrid(rows, columns, indexing="ij"))
        x = (column + 0.5 + LAYOUTS[self.layout][1] * (row % 2)) * self.pitch_px
        y = (row + 0.5) * self.row_px
        kept = (x < self.width_px) & (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
        return (row * self.n_columns + column)[kept], np.column_stack([x, y])[kept]


def _count(length: float, step: float) -> int:
    return max(int(np.ceil(length / step - 0.5 - 1e-9)), 0)


def _positions(low: float, high: float, step: float, n: int) -> NDArray[np.int64]:
    """Indices of which some may lie between two coordinates."""
    first, last = np.clip([np.floor(low / step) - 1, np.ceil(high / step) + 1], 0, n).astype(np.int64)
    return np.arange(first, last)


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
        A predictor, for spots of the diameter it was trained on, or the name of a platform: ``"visium"`` (hexagonal,
        55 µm in diameter, 100 µm apart), ``"st"`` (square, 100 µm and 200 µm), ``"visium_hd_8um"`` and
        ``"visium_hd_16um"`` (square bins, edge to edge). None where ``diameter_um`` and ``pitch_um`` say all.
    diameter_um
        Diameter of a spot, or side of a bin, in µm; counts more than ``like``.
    pitch_um
        Distance between the centres of neighbours in µm; counts more than ``like``. By default what the predictor
        records, or else twice its diameter.
    layout
        ``"hexagonal"`` or ``"square"``; counts more than ``like``. Square where nothing says otherwise, as for a
        predictor.
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
        If no spot lies on tissue, the resolution is not known, or ``key_added`` is something else than a grid.

    Notes
    -----
    The area of a circle is that of a polygon of 64 sides. Only where an outline may cross the edge of the tissue are
    areas compared; elsewhere the centre decides.

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
    made: dict[str, Any] = sdata.attrs.get(keys.ATTRS, {}).get(keys.GRID, {})
    check.may_write(sdata, key_added, made)
    image_key = _image(sdata, image_key, coordinate_system)
    if um_per_px is not None:
        check.length("um_per_px", um_per_px)
    scale = resolution(sdata, image_key, um_per_px)
    height, width = pyramid(sdata.images[image_key])[0].pixels.shape[-2:]
    lattice = Lattice(pitch_px=geometry.pitch_um / scale, layout=geometry.layout, width_px=width, height_px=height)
    tissue = _tissue(sdata, tissue_key, image_key, coordinate_system)
    diameter_px = geometry.diameter_um / scale
    ids, xy = _kept(lattice, diameter_px, geometry.outline, tissue, min_tissue)
    check.not_empty(len(ids), image_key, None if tissue is None else tissue_key, min_tissue)
    element = _element(ids, xy, diameter_px, geometry.outline, get_transformation(sdata[image_key], get_all=True))
    if key_added in sdata.shapes:
        del sdata.shapes[key_added]
    sdata.shapes[key_added] = element
    counts = {"n_rows": lattice.n_rows, "n_columns": lattice.n_columns}
    note = {**asdict(geometry), **counts, "image_key": image_key, "um_per_px": scale}
    sdata.attrs[keys.ATTRS] = {**sdata.attrs.get(keys.ATTRS, {}), keys.GRID: {**made, key_added: note}}


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
    return SpotGeometry(diameter_um=diameter, pitch_um=float(provenance.get("pitch_um") or 2 * diameter))


def _image(sdata: SpatialData, asked: str | None, coordinate_system: str | None) -> str:
    systems = {name: set(get_transformation(image, get_all=True)) for name, image in sdata.images.items()}
    if asked is None:
        names = [name for name, own in systems.items() if coordinate_system is None or coordinate_system in own]
        check.one_image(names, coordinate_system)
        asked = names[0]
    check_slides.has_image(list(systems), asked)
    check.in_system(systems[asked], coordinate_system, asked)
    system = coordinate_system or min(systems[asked])
    check_slides.isotropic(axis_scales(np.linalg.inv(affine_matrix(sdata[asked], system))), asked, system)
    return asked


def _tissue(sdata: SpatialData, tissue_key: str | None, image_key: str, asked: str | None) -> Any:
    """The tissue in pixels of the image, as one (multi)polygon; None to cover the whole image."""
    if tissue_key is None or (tissue_key == keys.TISSUE and tissue_key not in sdata.shapes):
        logger.info("No tissue: the grid covers the whole of image %r.", image_key)
        return None
    check.has_tissue(list(sdata.shapes), tissue_key)
    tissue, image = sdata.shapes[tissue_key], sdata.images[image_key]
    check.tissue_areas(tissue, tissue_key)
    systems = set(get_transformation(tissue, get_all=True)) & set(get_transformation(image, get_all=True))
    shared = sorted(systems if asked is None else systems & {asked})
    check.tissue_shares_system(shared, tissue_key, image_key)
    to_px = np.linalg.inv(affine_matrix(image, shared[0])) @ affine_matrix(tissue, shared[0])
    areas = shapely.make_valid(shapely.transform(tissue.geometry.to_numpy(), lambda xy: apply_affine(to_px, xy)))
    parts = shapely.get_parts(shapely.get_parts(areas))  # repairs may nest polygons, and leave lines
    return shapely.union_all(parts[shapely.get_dimensions(parts) == 2])


def _kept(
    lattice: Lattice, diameter_px: float, outline: Outline, tissue: Any, min_tissue: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Position and centre of the spots that lie on tissue."""
    whole = np.array([0.0, 0.0, lattice.width_px, lattice.height_px])
    if tissue is None or min_tissue == 0:
        return lattice.within(whole)
    if shapely.is_empty(tissue):
        return lattice.within(np.zeros(4))
    reach = OUTLINES[outline] * diameter_px
    ids, xy = lattice.within(np.asarray(shapely.bounds(tissue)) + reach * np.array([-1, -1, 1, 1]))
    kept = tissue_share(xy, diameter_px, outline, tissue) >= min_tissue - 1e-9
    return ids[kept], xy[kept]


def tissue_share(xy: NDArray[np.float64], diameter: float, outline: Outline, tissue: Any) -> NDArray[np.float64]:
    """Fraction of the area of each spot that lies on tissue.

    Parameters
    ----------
    xy
        ``(n, 2)`` centres.
    diameter
        Diameter of a circle, or side of a square, in the unit of ``xy``.
    outline
        ``"circle"`` or ``"square"``.
    tissue
        One polygon or multipolygon, in the unit of ``xy``.

    Returns
    -------
    ``(n,)`` fractions from 0 to 1.

    Notes
    -----
    The centre decides wherever the edge of the tissue is farther away than the outline reaches. The other spots are
    intersected with pieces of the tissue that have few vertices, and the areas added up.
    """
    shapely.prepare(tissue)
    share: NDArray[np.float64] = shapely.contains_xy(tissue, xy).astype(np.float64)
    edge = _near_edge(xy, OUTLINES[outline] * diameter, tissue)
    spots = _outlines(xy[edge], diameter, outline)
    pieces = np.array(_pieces(tissue))
    spot, piece = shapely.STRtree(pieces).query(spots, predicate="intersects")
    areas = shapely.area(shapely.intersection(spots[spot], pieces[piece]))
    share[edge] = np.bincount(spot, areas, minlength=len(spots)) / shapely.area(spots)
    return share


def _near_edge(xy: NDArray[np.float64], reach: float, tissue: Any) -> NDArray[np.intp]:
    """Rows of the points that lie within reach of the boundary of the tissue."""
    rings = shapely.get_rings(shapely.get_parts(tissue))
    corners, ring = shapely.get_coordinates(rings, return_index=True)
    steps = np.stack([corners[:-1], corners[1:]], axis=1)[ring[:-1] == ring[1:]]
    tree = shapely.STRtree(shapely.linestrings(steps))
    return np.unique(tree.query(shapely.points(xy), predicate="dwithin", distance=reach)[0])


def _pieces(tissue: Any) -> list[Any]:
    """The tissue cut along x and y into polygons of few vertices."""
    waiting, done = list(shapely.get_parts(tissue)), []
    while waiting:
        part = waiting.pop()
        if shapely.get_num_coordinates(part) <= MAX_VERTICES:
            done.append(part)
            continue
        x0, y0, x1, y1 = shapely.bounds(part)
        wide, x, y = x1 - x0 > y1 - y0, (x0 + x1) / 2, (y0 + y1) / 2
        halves = [(x0, y0, x, y1), (x, y0, x1, y1)] if wide else [(x0, y0, x1, y), (x0, y, x1, y1)]
        cut = shapely.get_parts(shapely.intersection(part, shapely.box(*np.transpose(halves))))
        waiting.extend(cut[shapely.get_dimensions(cut) == 2])
    return done


def _outlines(xy: NDArray[np.float64], diameter: float, outline: Outline) -> NDArray[Any]:
    x, y = xy.T
    half = diameter / 2
    polygons: NDArray[Any] = (
        shapely.box(x - half, y - half, x + half, y + half)
        if outline == "square"
        else shapely.buffer(shapely.points(xy), half, quad_segs=16)
    )
    return polygons


def _element(
    ids: NDArray[np.int64], xy: NDArray[np.float64], diameter_px: float, outline: Outline, systems: dict[str, Any]
) -> GeoDataFrame:
    """Circles or polygons, ready to be put into an object."""
    circles = outline == "circle"
    geometry = shapely.points(xy) if circles else _outlines(xy, diameter_px, outline)
    columns = {"radius": diameter_px / 2} if circles else {}
    element: GeoDataFrame = ShapesModel.parse(
        GeoDataFrame(columns, geometry=geometry, index=ids), transformations=systems
    )
    return element
