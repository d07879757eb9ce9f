"""Note the resolution of images: what the user says, what is recorded, or what the spots imply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _keys as keys
from .._checks import files as check_files
from .._checks import slides as check
from .._slides import READER_DIAMETERS_UM, Selection, resolve
from ..io._lattice import neighbour_pitch

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

    It is, in this order: ``um_per_px``, what the object already records, and what follows from the platform's known
    pitch or spot diameter. Where two of them are known they are compared.

    Parameters
    ----------
    sdata
        The object.
    um_per_px
        Resolution in µm per full-resolution pixel.
    pitch_um
        Distance between neighbouring spots in µm (200 for legacy arrays, 100 for Visium).
    diameter_um
        Diameter of a spot in µm (100 for legacy arrays, 55 for Visium).
    image_key
        Image that is meant; by default every image with spots.
    shapes_key
        Spots to measure; by default all.
    coordinate_system
        Coordinate system shared by image and spots, where there are several.

    Returns
    -------
    Nothing. Writes ``sdata.attrs["stpredict"]["um_per_px"][image]``.

    Raises
    ------
    ValueError
        If nothing is known, or two sources differ by more than 5 %.

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
    recorded: dict[str, float] = sdata.attrs.get(keys.ATTRS, {}).get(keys.UM_PER_PX, {})
    found: dict[str, float] = {}
    if um_per_px is not None and pitch_um is None and diameter_um is None:
        found = dict.fromkeys(_images(sdata, image_key), float(um_per_px))
    else:
        selection = Selection(shapes_key=shapes_key, coordinate_system=coordinate_system, um_per_px=1.0)
        for slide in _on_image(sdata, selection, image_key):
            measured = _measured(slide, pitch_um, diameter_um, sdata)
            given = um_per_px if um_per_px is not None else recorded.get(slide.image_key)
            found[slide.image_key] = _settled(given, measured, slide.image_key)
    for name, value in found.items():
        check.resolution(value, name)
    sdata.attrs[keys.ATTRS] = {**sdata.attrs.get(keys.ATTRS, {}), keys.UM_PER_PX: {**recorded, **found}}


def _images(sdata: SpatialData, image_key: str | None) -> list[str]:
    if image_key is None:
        return list(sdata.images)
    check.has_image(list(sdata.images), image_key)
    return [image_key]


def _on_image(sdata: SpatialData, selection: Selection, image_key: str | None) -> list[Slide]:
    """Slides as if a pixel were 1 µm, so that lengths are in pixels."""
    if image_key is not None:
        check.has_image(list(sdata.images), image_key)
    slides = resolve(sdata, selection, needs_table=False)
    if image_key is None:
        return slides
    matching = [slide for slide in slides if slide.image_key == image_key]
    check_files.spots_on_image(len(matching), image_key)
    return matching


def _measured(slide: Slide, pitch_um: float | None, diameter_um: float | None, sdata: SpatialData) -> list[float]:
    if pitch_um is None and diameter_um is None:
        diameter_um = READER_DIAMETERS_UM.get(str(sdata.attrs.get("spatialdata_io_reader")))
    by_pitch = [] if pitch_um is None else [pitch_um / neighbour_pitch(slide.xy_px)]
    by_diameter = [] if diameter_um is None else [diameter_um / slide.diameter_um]
    return [value for value in (*by_pitch, *by_diameter) if np.isfinite(value)]


def _settled(given: float | None, measured: list[float], image_key: str) -> float:
    values = [float(value) for value in ([given] if given is not None else []) + measured]
    check.resolution_known(values[0] if values else None, image_key)
    for value in values[1:]:
        check_files.agrees(values[0], value, image_key)
    return values[0]
