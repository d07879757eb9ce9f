"""Write tissue into a SpatialData as polygons, found by its stain or taken from a mask. Pixels: see `_tissue_mask`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import slides as check_slides
from .._checks.calls import public
from .._checks.slides import quote
from .._geometry import axis_scales
from .._resolution import image_resolution
from .._slides import checks as check_elements
from .._slides import elements
from .._slides.levels import pyramid
from .._slides.regions import classes_by_element
from ._tissue_mask import MIN_AREA_UM2, MIN_HOLE_UM2, RESOLUTION_UM, found_polygons, mask_outlines, pieces

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides.regions import Regions

METHOD: Final = "otsu of log(stain x texture)"


@public
def tissue(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    um_per_px: float | None = None,
    resolution_um: float = RESOLUTION_UM,
    min_area_um2: float = MIN_AREA_UM2,
    min_hole_um2: float = MIN_HOLE_UM2,
    mask_key: str | None = None,
    annotations: Regions | None = None,
    key_added: str = keys.TISSUE,
) -> None:
    """Find tissue on an image stained with haematoxylin and eosin.

    Backgrounds may be white, grey or hazed with dye; ink of blue, green and black pens, grey fiducial dots, dust and
    areas masked in black are left out. The same image always gives the same polygons. ``mask_key`` takes a mask that
    was made elsewhere instead.

    Parameters
    ----------
    sdata
        The object.
    image_key
        The image; by default the only one.
    um_per_px
        Resolution in µm per full-resolution pixel, if it is not recorded in the object.
    resolution_um
        µm per pixel at which tissue is found: the coarsest level that is at least as fine is read, and averaged to it.
    min_area_um2
        Area in µm² of the smallest piece that is kept.
    min_hole_um2
        Area in µm² of the smallest hole that is kept. Fat is pale: groups of fat cells up to this are filled.
    mask_key
        Labels (anything but 0 is tissue, as `squidpy.experimental.im.detect_tissue` writes them) or polygons that are
        used in place of the pixels; they must share a coordinate system with the image.
    annotations
        Keep only tissue in these polygons: the name of a shapes element, such as `stp.io.read_annotations` writes,
        several names, or a mapping of names to the classes that count, for instance ``{"annotations": "Tumor"}``.
    key_added
        Name of the polygons.

    Returns
    -------
    Nothing. Writes ``sdata.shapes[key_added]``: a polygon for each piece of tissue, the largest first, with its holes,
    in full-resolution pixels of the image and with the image's transformations; the column ``area_um2`` is its area.
    ``sdata.attrs["stpredict"]["tissue"][key_added]`` records parameters, and background and threshold or the mask.

    Raises
    ------
    ValueError
        If there is no tissue, or none in the annotations, or ``key_added`` names an element that this function did not
        make.

    Notes
    -----
    Pixels become optical densities :cite:p:`Ruifrok2001` against the slide's own background: the median colour
    around the most frequent brightness among the light pixels. *Stain* is how much more green is absorbed than the
    less absorbed of red and blue, since both dyes absorb green the most and ink, shadow and dust do not; where red is
    absorbed 1.2 times as much as green, over three pixels, there is pen. *Texture* is the standard deviation of the
    green density: haze has stain but no texture. Both are averaged over a Gaussian of 16 µm. The threshold is that of
    Otsu :cite:p:`Otsu1979` on the logarithm of their geometric mean, and 0.02 at least, so that a blank slide has no
    tissue. An opening takes off the margin that averaging adds, and with it what is narrower than about 40 µm; then
    small pieces go and small holes are filled.

    The background must be visible: on an image that is tissue from edge to edge, part of it counts as background. A
    navy pen, as violet as haematoxylin, cannot be distinguished from nuclei.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.pp.tissue(sdata)
    >>> list(sdata["tissue"].columns)
    ['geometry', 'area_um2']
    """
    check_elements.is_spatialdata(sdata)
    for name, value in {"resolution_um": resolution_um, "min_area_um2": min_area_um2}.items():
        check_config.positive(name, value)
    check_config.in_range("min_hole_um2", min_hole_um2, 0, np.inf)
    image_key = elements.find_image(sdata, image_key)
    check_elements.may_write(sdata, key_added, elements.read_attrs(sdata, keys.TISSUE), "stp.pp.tissue")
    um_per_px = image_resolution(sdata, image_key, um_per_px)
    levels = pyramid(sdata.images[image_key])
    options = {"resolution_um": float(resolution_um), "min_area_um2": float(min_area_um2),
               "min_hole_um2": float(min_hole_um2)}  # fmt: skip
    if mask_key is None:
        polygons, found = found_polygons(levels, um_per_px, image_key, **options)
        if not len(polygons):
            msg = (
                f"No tissue on image {image_key!r}: no piece of {min_area_um2:g} µm² or more is stained and textured "
                f"more than the background, at {um_per_px:g} µm per pixel. The slide may be blank: leave it out. If it "
                "is not, give a smaller `min_area_um2`, see whether the resolution is right (`stp.pp.resolution`), or "
                "add polygons of your own to `sdata.shapes`."
            )
            raise ValueError(msg)
        source = {"method": METHOD, "background": list(found.background), "threshold": found.threshold}
    else:
        outlines = _outlines(sdata, mask_key, image_key, resolution_um / um_per_px)
        polygons = pieces(outlines, levels[0].pixels.shape[1:], um_per_px, min_area_um2, min_hole_um2)
        if not len(polygons):
            msg = (
                f"Mask {mask_key!r} holds no piece of {min_area_um2:g} µm² or more on the image. Give a smaller "
                "`min_area_um2`, see whether image and mask are registered and the resolution is right "
                "(`stp.pp.resolution`), or leave out `mask_key` to find tissue by its stain."
            )
            raise ValueError(msg)
        source = {"method": "mask", "mask_key": mask_key}
    if annotations is not None:
        polygons = _within(sdata, polygons, annotations, image_key, um_per_px, (min_area_um2, min_hole_um2))
        source["annotations"] = classes_by_element(annotations)
    elements.write_shapes(sdata, key_added, polygons, image_key)
    record = {"image_key": image_key, "um_per_px": um_per_px, **options, **source}
    elements.write_attrs(sdata, keys.TISSUE, key_added, record)


def _within(
    sdata: SpatialData,
    polygons: GeoDataFrame,
    annotations: Regions,
    image_key: str,
    um_per_px: float,
    smallest_um2: tuple[float, float],
) -> GeoDataFrame:
    """The parts of polygons in pixels that are annotated, without small pieces and holes."""
    area = elements.regions_in_pixels(sdata, annotations, image_key, "annotations")
    size = pyramid(sdata.images[image_key])[0].pixels.shape[1:]
    found = pieces(list(polygons.geometry.intersection(area)), size, um_per_px, *smallest_um2)
    if not len(found):
        msg = (
            f"No piece of tissue of {smallest_um2[0]:g} µm² or more lies in the annotations "
            f"{quote(list(classes_by_element(annotations)))}. Give a smaller `min_area_um2`, or other `annotations`."
        )
        raise ValueError(msg)
    return found


def _outlines(sdata: SpatialData, mask_key: str, image_key: str, step_px: float) -> list[Any]:
    """Polygons of a mask, in pixels of the image."""
    check_slides.one_name("element with tissue", mask_key, [*sdata.labels, *sdata.shapes], "mask_key")
    if mask_key in sdata.shapes:
        return [elements.polygons_in_pixels(sdata, mask_key, image_key, None, "mask_key")]
    to_px = elements.affine_to_image(sdata, mask_key, image_key, None, "mask_key")
    mask, shrunk = _labels(sdata.labels[mask_key], step_px / max(axis_scales(to_px)))
    return mask_outlines(mask, to_px @ shrunk)


def _labels(element: Any, ratio: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Mask of the coarsest level within ``ratio`` of the finest, and its matrix to pixels of the finest."""
    from spatialdata import get_pyramid_levels

    scales = list(get_pyramid_levels(element)) if hasattr(element, "children") else [element]
    full = np.array(scales[0].shape)
    level = [scale for scale in scales if scale is scales[0] or (full / scale.shape).max() <= ratio * (1 + 1e-6)][-1]
    y, x = full / level.shape
    return np.asarray(level) != 0, np.diag([x, y, 1.0])
