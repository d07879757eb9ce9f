"""Write the stain of a slide into a SpatialData. See `stain_normalization` for what a stain is and how it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _keys as keys
from .._checks import slides as check_slides
from .._checks.calls import public
from .._resolution import image_resolution
from .._slides import checks as check_elements
from .._slides import elements
from .._slides.levels import pyramid
from .stain_normalization import N_WINDOWS, RESOLUTION_UM, WINDOW_PX, fit_stain

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides.levels import Level

    Float = NDArray[np.float64]


@public
def stain(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    tissue_key: str = keys.TISSUE,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
) -> None:
    """Measure the stain of a slide, for instance to compare slides.

    `stp.tl.fit` measures the stain of training slides at their spots, and `stp.tl.predict` does so where it normalises
    stain; a stain that is recorded here takes precedence over one measured at the spots.

    Parameters
    ----------
    sdata
        The object.
    image_key
        The image; by default the only one.
    tissue_key
        Shapes element with the tissue as polygons. Without any ``"tissue"`` it is found as by `stp.pp.tissue`,
        and not written.
    coordinate_system
        Coordinate system shared by image and tissue, if there are several.
    um_per_px
        Resolution in µm per full-resolution pixel; by default as recorded in the object.

    Returns
    -------
    Nothing. Writes ``sdata.attrs["stpredict"]["stain"][image_key]``, ready for JSON: ``vectors`` (optical density of
    haematoxylin and of eosin in red, green and blue), ``concentration`` (99th percentiles), ``mean`` and ``std`` (l,
    alpha, beta), ``n_px`` (number of pixels).

    Raises
    ------
    ValueError
        If there is no tissue, too little of it is stained, or with one dye only.

    Notes
    -----
    At most 64 windows of 256 µm, on a lattice over the tissue, are read at 4 µm per pixel; pixels with a mean optical
    density of 0.15 or more count, except for ink as `stp.pp.tissue` defines it. Densities are taken against white
    (255), so a tinted background counts as stain. Vectors are those of Macenko et al. (2009): the first and 99th
    percentile of the angle in the plane of the two largest singular vectors of the densities. ``mean`` and ``std`` are
    those of Reinhard et al. (2001) :cite:p:`Macenko2009,Reinhard2001`.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.pp.stain(sdata)
    >>> [len(vector) for vector in sdata.attrs["stpredict"]["stain"]["S0_image"]["vectors"]]
    [3, 3]
    """
    check_elements.is_spatialdata(sdata)
    image_key = elements.find_image(sdata, image_key, coordinate_system)
    um_per_px = image_resolution(sdata, image_key, um_per_px)
    levels = pyramid(sdata.images[image_key])
    check_slides.colour_image(levels[0].pixels.shape, image_key)
    places = _window_centres(sdata, levels, um_per_px, image_key, tissue_key, coordinate_system)
    found = check_slides.has_stain(fit_stain(levels, um_per_px, places, image_key=image_key), image_key)
    elements.write_attrs(sdata, keys.STAIN, image_key, found.to_dict())


def _window_centres(
    sdata: SpatialData, levels: tuple[Level, ...], um_per_px: float, image_key: str, tissue_key: str, system: str | None
) -> Float:
    """Centres of windows on the tissue, in pixels of the image."""
    import shapely

    from ._tissue_mask import found_polygons

    tissue = elements.tissue_in_pixels(sdata, tissue_key, image_key, system)
    if tissue is None:
        polygons, _ = found_polygons(levels, um_per_px, image_key)
        tissue = shapely.union_all(polygons.geometry.to_numpy())
    if not shapely.area(tissue) > 0:
        msg = (
            f"No tissue on image {image_key!r}, so there is no stain to measure. The slide may be blank: leave it out. "
            "If it is not, add polygons of your own to `sdata.shapes` and name them as `tissue_key`."
        )
        raise ValueError(msg)
    return lattice_within(tissue, WINDOW_PX * max(RESOLUTION_UM, um_per_px) / um_per_px)


def lattice_within(tissue: Any, side_px: float) -> Float:
    """Centres ``(n, 2)`` of about `N_WINDOWS` windows on a square lattice within tissue; at least one in each piece."""
    import shapely

    step = max(side_px, float(np.sqrt(shapely.area(tissue) / N_WINDOWS)))
    x0, y0, x1, y1 = shapely.bounds(tissue)
    x, y = np.meshgrid(np.arange(x0 + step / 2, x1, step), np.arange(y0 + step / 2, y1, step))
    shapely.prepare(tissue)
    inside = shapely.contains_xy(tissue, x, y)
    xy: Float = np.column_stack([x[inside], y[inside]])
    if not len(xy):
        xy = shapely.get_coordinates(shapely.point_on_surface(shapely.get_parts(tissue)))
    return xy
