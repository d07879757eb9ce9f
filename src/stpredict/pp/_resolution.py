"""Note the resolution of images: what the user says, what is recorded, or what the spots imply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from spatialdata.transformations import get_transformation

from .. import _keys as keys
from .._checks import files as check_files
from .._checks import slides as check
from .._geometry import neighbour_pitch
from .._resolution import (
    Resolution,
    SpotsOnImage,
    reconcile_resolution,
    resolutions_from_spots,
    spot_platform,
    stated_resolution,
)
from .._slides import Selection, resolve, slide_images

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from .._slides import Slide


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
    """Note the resolution of images.

    It is, in this order: ``um_per_px``, what the object already records, what the metadata of the image's file say, and
    what follows from the pitch or diameter of the spots: as given, or of the platform whose reader made the object
    (Visium, Visium HD). What the spots say is compared with what was said before.

    Parameters
    ----------
    sdata
        The object.
    um_per_px
        Resolution in µm per full-resolution pixel.
    pitch_um
        Distance between neighbouring spots in µm (200 for legacy arrays, 100 for Visium).
    diameter_um
        Diameter of a spot in µm (100 for legacy arrays; for Visium 65 as Space Ranger writes it, though spots are 55).
    image_key
        Image that is meant; by default every image.
    shapes_key
        Spots to measure; by default all.
    coordinate_system
        Coordinate system shared by image and spots, where there are several.

    Returns
    -------
    Nothing. Writes ``sdata.attrs["stpredict"]["um_per_px"][image]``, and its origin, such as ``"argument"`` or
    ``"spot pitch"``, under ``um_per_px_from``.

    Raises
    ------
    ValueError
        If nothing is known, two sources differ by more than 5 %, or pixels are not square within 1 %.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> del sdata.attrs["stpredict"]
    >>> stp.pp.resolution(sdata, pitch_um=200)
    >>> round(sdata.attrs["stpredict"]["um_per_px"]["S0_image"], 3)
    4.0
    """
    check.is_spatialdata(sdata)
    for name, value in {"um_per_px": um_per_px, "pitch_um": pitch_um, "diameter_um": diameter_um}.items():
        if value is not None:
            check_files.positive(name, value)
    names = _images(sdata, image_key)
    said = {name: stated_resolution(sdata, name, um_per_px) for name in names}
    found: dict[str, Resolution] = {}
    if pitch_um is not None or diameter_um is not None or keys.READER in sdata.attrs or None in said.values():
        selection = Selection(
            image_key=_meant(sdata, image_key), shapes_key=shapes_key, coordinate_system=coordinate_system, in_px=True
        )
        for slide in _on_image(sdata, selection, image_key):
            by_spots = _measured(slide, pitch_um, diameter_um, sdata)
            found[slide.image_key] = reconcile_resolution(said[slide.image_key], by_spots, slide.image_key)
    rest = {
        name: reconcile_resolution(known, [], name)
        for name, known in said.items()
        if known is not None and name not in found
    }
    _note(sdata, {**rest, **found})


def _note(sdata: SpatialData, found: dict[str, Resolution]) -> None:
    ours = sdata.attrs.get(keys.ATTRS, {})
    values = {name: known.um_per_px for name, known in found.items()}
    origins = {name: known.origin for name, known in found.items()}
    sdata.attrs[keys.ATTRS] = {
        **ours,
        keys.UM_PER_PX: {**ours.get(keys.UM_PER_PX, {}), **values},
        keys.UM_PER_PX_FROM: {**ours.get(keys.UM_PER_PX_FROM, {}), **origins},
    }


def _images(sdata: SpatialData, image_key: str | None) -> list[str]:
    if image_key is None:
        return slide_images(sdata)
    check.has_image(list(sdata.images), image_key)
    return [image_key]


def _meant(sdata: SpatialData, image_key: str | None) -> dict[str, str] | None:
    """The image, for every element that shares a coordinate system with it: others have their own."""
    if image_key is None:
        return None
    systems = set(get_transformation(sdata.images[image_key], get_all=True))
    elements = {**sdata.shapes, **sdata.labels}
    sharing = [name for name in elements if systems & set(get_transformation(elements[name], get_all=True))]
    return dict.fromkeys(sharing, image_key)


def _on_image(sdata: SpatialData, selection: Selection, image_key: str | None) -> list[Slide]:
    """Slides as if a pixel were 1 µm, so that lengths are in pixels."""
    if not {*sdata.shapes, *sdata.labels}:
        check.resolution_known(0, image_key or next(iter(sdata.images), "of none"))
    slides = resolve(sdata, selection, needs_table=False)
    if image_key is None:
        return slides
    matching = [slide for slide in slides if slide.image_key == image_key]
    check_files.spots_on_image(len(matching), image_key)
    return matching


def _measured(slide: Slide, pitch_um: float | None, diameter_um: float | None, sdata: SpatialData) -> list[Resolution]:
    """What spots of the given lengths say, else what those of the platform do."""
    if pitch_um is None and diameter_um is None:
        spots = SpotsOnImage(shapes_key=slide.shapes_key, xy_px=slide.xy_px, diameter_px=slide.diameter_um)
        return resolutions_from_spots(spot_platform(sdata, slide.shapes_key), spots)
    pitch_px = neighbour_pitch(slide.xy_px)
    found = [(pitch_um, pitch_px, "spot pitch"), (diameter_um, slide.diameter_um, "spot diameter")]
    known = [
        Resolution(um_per_px=length_um / length_px, origin=origin)
        for length_um, length_px, origin in found
        if length_um is not None and np.isfinite(length_px)
    ]
    for other in known[1:]:
        check.same_resolution(known[0], other, slide.image_key)
    return known[:1]
