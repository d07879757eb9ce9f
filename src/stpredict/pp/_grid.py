"""Lay spots of a known geometry over a slide, in order to predict there. Nothing here reads pixels."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import shapely
from geopandas import GeoDataFrame

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from .._resolution import image_resolution
from .._slides import checks as check_elements
from .._slides import elements
from .._slides.levels import pyramid
from ._tissue_fraction import tissue_fraction
from .lattice import OUTLINES, SpotLattice, spot_geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .lattice import Layout, Outline, SpotGeometry, WithProvenance

MAX_PLACES = 50_000_000
"""Largest number of places of a lattice that are computed."""


@public
def spot_grid(
    sdata: SpatialData,
    like: str | WithProvenance | None = None,
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

    For slides without measured spots: ``stp.tl.predict(sdata, predictor, shapes_key="grid")`` predicts on them and
    writes a table. The lattice begins at the corner of the image and lies along its rows and columns: the first
    centre is half a step from either edge, and every spot whose centre lies in the image belongs to it.

    Parameters
    ----------
    sdata
        The object.
    like
        A predictor, for spots like those of its training (diameter, pitch, layout), or the name of a platform:
        ``"visium"`` (hexagonal, 55 µm in diameter, 100 µm apart), ``"st"`` (square, 100 µm and 200 µm),
        ``"visium_hd_8um"`` and ``"visium_hd_16um"`` (square bins, edge to edge). None if ``diameter_um`` and
        ``pitch_um`` are given.
    diameter_um
        Diameter of a spot, or side of a bin, in µm; overrides ``like``.
    pitch_um
        Distance between the centres of neighbours in µm; overrides ``like``. By default that of the
        predictor, or else twice its diameter.
    layout
        ``"hexagonal"`` or ``"square"``; overrides ``like``. By default that of the predictor, or else square.
    tissue_key
        Shapes element with the tissue as polygons. Without any ``"tissue"``, or with None, the whole image is
        covered.
    min_tissue
        Minimum fraction of the area of a spot on tissue, between 0 and 1.
    image_key
        The image; by default the only one.
    coordinate_system
        Coordinate system shared by image and tissue, if there are several.
    um_per_px
        Resolution in µm per full-resolution pixel; by default as recorded in the object.
    key_added
        Shapes element that is written. Only a grid of an earlier call is replaced.

    Returns
    -------
    Nothing. Writes ``sdata.shapes[key_added]``: circles, or polygons for bins, in full-resolution pixels with the
    transformations of the image. The index (int) is the position in the whole lattice, row by row, so it does not
    depend on the tissue. The geometry is recorded in ``sdata.attrs["stpredict"]["grid"][key_added]``; its ``n_columns``
    turns an index into row and column: ``divmod(index, n_columns)``.

    Raises
    ------
    ValueError
        If no spot lies on tissue, the resolution is unknown, ``key_added`` is an element other than a grid, or more
        than 50 million places would have to be computed.

    Notes
    -----
    Areas are exact, of circles too. A million spots take seconds, however much they overlap; memory grows with
    the number of spots.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.pp.spot_grid(sdata, "visium")
    >>> sdata["grid"].shape, float(sdata["grid"]["radius"].iloc[0])
    ((247, 2), 6.875)
    """
    check_elements.is_spatialdata(sdata)
    check_config.in_range("min_tissue", min_tissue, 0.0, 1.0)
    geometry = spot_geometry(like, diameter_um, pitch_um, layout)
    check_elements.may_write(sdata, key_added, elements.read_attrs(sdata, keys.GRID), "stp.pp.spot_grid")
    image_key = elements.find_image(sdata, image_key, coordinate_system)
    check_config.length("um_per_px", um_per_px)
    resolution = image_resolution(sdata, image_key, um_per_px)
    lattice = lattice_on_image(sdata, geometry, image_key, resolution)
    tissue = elements.tissue_in_pixels(sdata, tissue_key, image_key, coordinate_system)
    box = np.array([0.0, 0.0, lattice.width_px, lattice.height_px])
    if tissue is not None and min_tissue:
        reach = OUTLINES[geometry.outline] * lattice.diameter_px
        empty = shapely.is_empty(tissue)
        box = np.zeros(4) if empty else np.asarray(shapely.bounds(tissue)) + reach * np.array([-1, -1, 1, 1])
    if (n_places := lattice.n_places(box)) > MAX_PLACES:
        msg = (
            f"The lattice has {n_places:,} places at a pitch of {geometry.pitch_um:g} µm; at most {MAX_PLACES:,} are "
            "laid. Give a larger `pitch_um`, tissue of less extent (`stp.pp.tissue`, `tissue_key`), or see whether the "
            "resolution is right (`stp.pp.resolution`)."
        )
        raise ValueError(msg)
    ids, centres = [np.empty(0, np.int64)], [np.empty((0, 2))]
    for strip in lattice.strips(box):
        some, xy = lattice.within(strip)
        if tissue is not None and min_tissue > 0:
            fraction = tissue_fraction(xy, lattice.diameter_px, geometry.outline, tissue)
            some, xy = some[fraction >= min_tissue - 1e-6], xy[fraction >= min_tissue - 1e-6]
        ids.append(some)
        centres.append(xy)
    shapes = spot_shapes(np.concatenate(ids), np.concatenate(centres), lattice.diameter_px, geometry.outline)
    if not len(shapes):
        on = "on it" if tissue is None else f"with {min_tissue:g} of its area on {tissue_key!r}"
        msg = (
            f"The grid is empty: image {image_key!r} has no spot {on}. Lower `min_tissue`, give a smaller "
            "`pitch_um`, or check the resolution with `stp.pp.resolution`."
        )
        raise ValueError(msg)
    elements.write_shapes(sdata, key_added, shapes, image_key)
    record = {**asdict(geometry), "n_rows": lattice.n_rows, "n_columns": lattice.n_columns}
    elements.write_attrs(sdata, keys.GRID, key_added, {**record, "image_key": image_key, "um_per_px": resolution})


def lattice_on_image(sdata: SpatialData, geometry: SpotGeometry, image_key: str, um_per_px: float) -> SpotLattice:
    """Spots of a geometry over a whole image."""
    height, width = pyramid(sdata.images[image_key])[0].pixels.shape[-2:]
    return SpotLattice(geometry=geometry, um_per_px=um_per_px, width_px=width, height_px=height)


def spot_shapes(ids: NDArray[np.int64], xy: NDArray[np.float64], diameter_px: float, outline: Outline) -> GeoDataFrame:
    """Circles or square polygons."""
    if outline == "circle":
        return GeoDataFrame({"radius": diameter_px / 2}, geometry=shapely.points(xy), index=ids)
    low, high = xy - diameter_px / 2, xy + diameter_px / 2
    return GeoDataFrame(geometry=shapely.box(*low.T, *high.T), index=ids)
