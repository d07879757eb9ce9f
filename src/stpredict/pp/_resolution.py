"""Record the resolution of images: as given, as recorded, or as the spots imply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from spatialdata.transformations import get_transformation

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from .._geometry import neighbour_pitch
from .._resolution import (
    Resolution,
    SpotsOnImage,
    check_resolution_known,
    compare_resolutions,
    reconcile_resolution,
    resolutions_from_spots,
    spot_platform,
    stated_resolution,
)
from .._slides import checks as check_elements
from .._slides import elements
from .._slides.placement import slide_images
from .._slides.slides import Selection, resolve

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from .._slides.slides import Slide


@public
def resolution(
    sdata: SpatialData,
    *,
    um_per_px: float | None = None,
    pitch_um: float | None = None,
    diameter_um: float | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
) -> None:
    """Record the resolution of images.

    The first that is known counts: ``um_per_px``, what the object already records, the metadata of the image file, and
    the pitch or diameter of the spots: as given, or of the platform whose reader made the object (Visium, Visium HD).
    ``um_per_px`` always counts. Anything else must agree with the spots within 5 %; otherwise the spots count, with a
    warning, or an error if they differ by more than a factor of 1.5.

    Parameters
    ----------
    sdata
        The object.
    um_per_px
        Resolution in µm per full-resolution pixel.
    pitch_um
        Distance between neighbouring spots in µm (200 for legacy arrays, 100 for Visium).
    diameter_um
        Diameter of a spot in µm (100 for legacy arrays). The diameters that Space Ranger writes for Visium are 60, 65
        or 70 µm, which depends on the slide; give ``pitch_um=100`` instead.
    image_key
        The image; by default every image.
    shapes_key
        Spots to measure; by default all.
    coordinate_system
        Coordinate system shared by image and spots, if there are several.

    Returns
    -------
    Nothing. Writes ``sdata.attrs["stpredict"]["um_per_px"][image]``, and its source, such as ``"argument"`` or
    ``"spot pitch"``, in ``um_per_px_from``.

    Raises
    ------
    ValueError
        If no resolution is known, two sources differ by more than a factor of 1.5, or pixels are not square within 1 %.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> del sdata.attrs["stpredict"]
    >>> stp.pp.resolution(sdata, pitch_um=200)
    >>> round(sdata.attrs["stpredict"]["um_per_px"]["S0_image"], 3)
    4.0
    """
    check_elements.is_spatialdata(sdata)
    for name, value in {"um_per_px": um_per_px, "pitch_um": pitch_um, "diameter_um": diameter_um}.items():
        check_config.length(name, value)
    if image_key is not None:
        check_elements.has_image(list(sdata.images), image_key)
    names = slide_images(sdata) if image_key is None else [image_key]
    stated = {name: stated_resolution(sdata, name, um_per_px) for name in names}
    by_spots: dict[str, Resolution] = {}
    platforms = [spot_platform(sdata, name) for name in sdata.shapes]
    if pitch_um is not None or diameter_um is not None or any(platforms) or None in stated.values():
        for slide in _slides_in_px(sdata, image_key, shapes_key, coordinate_system):
            measured = _from_spots(slide, pitch_um, diameter_um, sdata)
            by_spots[slide.image_key] = reconcile_resolution(stated[slide.image_key], measured, slide.image_key)
    without_spots = {name: known for name, known in stated.items() if known is not None and name not in by_spots}
    found = {name: reconcile_resolution(known, [], name) for name, known in without_spots.items()} | by_spots
    for name, known in found.items():
        elements.write_attrs(sdata, keys.UM_PER_PX, name, known.um_per_px)
        elements.write_attrs(sdata, keys.UM_PER_PX_FROM, name, known.origin)


def _slides_in_px(
    sdata: SpatialData, image_key: str | None, shapes_key: str | None, coordinate_system: str | None
) -> list[Slide]:
    """Slides as if a pixel were 1 µm, so that their lengths are in pixels."""
    spots = {**sdata.shapes, **sdata.labels}
    if not spots:
        check_resolution_known(0, image_key or next(iter(sdata.images), "of none"))
    images = None
    if image_key is not None:  # for elements that share a coordinate system with it; others have their own image
        systems = set(get_transformation(sdata.images[image_key], get_all=True))
        sharing = [name for name in spots if systems & set(get_transformation(spots[name], get_all=True))]
        images = dict.fromkeys(sharing, image_key)
    selection = Selection(image_key=images, shapes_key=shapes_key, coordinate_system=coordinate_system, in_px=True)
    slides = resolve(sdata, selection, needs_table=False, needs_counts=False)
    if image_key is None:
        return slides
    matching = [slide for slide in slides if slide.image_key == image_key]
    if not matching:
        msg = f"No spots lie on image {image_key!r}, so its resolution cannot be measured. Give `um_per_px`."
        raise ValueError(msg)
    return matching


def _from_spots(
    slide: Slide, pitch_um: float | None, diameter_um: float | None, sdata: SpatialData
) -> list[Resolution]:
    """Resolutions from spots of the given lengths, else of those of the platform."""
    if pitch_um is None and diameter_um is None:
        spots = SpotsOnImage(
            shapes_key=slide.shapes_key, xy_px=slide.xy_px, diameter_px=slide.diameter_um, array_xy=slide.array_xy
        )
        return resolutions_from_spots(spot_platform(sdata, slide.shapes_key), spots)
    lengths = [(pitch_um, neighbour_pitch(slide.xy_px), "spot pitch"),
               (diameter_um, slide.diameter_um, "spot diameter")]  # fmt: skip
    known = [
        Resolution(um_per_px=length_um / length_px, origin=origin)
        for length_um, length_px, origin in lengths
        if length_um is not None and np.isfinite(length_px)
    ]
    for other in known[1:]:
        compare_resolutions(known[0], other, slide.image_key)
    return known[:1]
