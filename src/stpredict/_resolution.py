"""The resolution of an image and its source: the one place where sources are ordered and compared.

Numbers and what `sdata.attrs` records; nothing here finds spots (see `_slides`) or reads pixels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import _keys as keys
from ._checks import slides as check
from ._geometry import spot_pitch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

VISIUM_HD_BIN = re.compile(r"square_(\d{3})um")
"""Names that spatialdata-io gives to the bins of Visium HD."""
PITCH_SAMPLE = 20_000
"""Number of spots from which the pitch is measured, where there are more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolution:
    """A resolution and its source."""

    um_per_px: float
    """µm per full-resolution pixel."""
    origin: str
    """The source: ``"argument"``, ``"spot pitch"``, the name of a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """Known lengths of the spots of a platform."""

    pitch_um: float
    """Distance between the centres of neighbouring spots."""
    diameters_um: tuple[float, ...]
    """Diameters that files of this platform give to a spot."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpotsOnImage:
    """Spots from which the resolution of an image can be measured."""

    shapes_key: str
    """The element they come from."""
    xy_px: NDArray[np.float64]
    """``(n, 2)`` centres in full-resolution pixels."""
    diameter_px: float
    """Median diameter."""


VISIUM = Platform(pitch_um=100.0, diameters_um=(65.0, 55.0))
"""Spots are 55 µm wide, but Space Ranger's ``spot_diameter_fullres`` is that of a theoretical spot of 65 µm."""


def spot_platform(sdata: SpatialData, shapes_key: str) -> Platform | None:
    """The platform of the spots according to the reader that made the object; None if unknown."""
    reader, ours = sdata.attrs.get(keys.READER), sdata.attrs.get(keys.ATTRS, {})
    if shapes_key in {**ours.get(keys.GRID, {}), **ours.get(keys.PSEUDO_SPOTS, {})}:  # our own, of any geometry
        return None
    bins = VISIUM_HD_BIN.search(shapes_key)
    if reader == "visium_hd" and bins:
        side = float(bins[1])
        return Platform(pitch_um=side, diameters_um=(side, 2 * side / np.sqrt(np.pi)))  # circle, or area of a square
    return VISIUM if reader == "visium" else None


def resolution_from_pixel_size(x_um: float, y_um: float, origin: str, name: str) -> Resolution:
    """The mean of the width and height of a pixel, which may differ by 1 %."""
    check.square_pixels(x_um, y_um, name)
    return Resolution(um_per_px=(x_um + y_um) / 2, origin=origin)


def stated_resolution(sdata: SpatialData, image_key: str, given: float | None) -> Resolution | None:
    """The user's value, else the recorded one, else that of the image file; None if there is none."""
    ours = sdata.attrs.get(keys.ATTRS, {})
    if given is not None:
        return Resolution(um_per_px=float(given), origin="argument")
    recorded = ours.get(keys.UM_PER_PX, {}).get(image_key)
    if recorded is not None:
        return Resolution(um_per_px=float(recorded), origin=ours.get(keys.UM_PER_PX_FROM, {}).get(image_key, "record"))
    of_file = ours.get(keys.SLIDE, {}).get(image_key, {}).get(keys.UM_PER_PX)
    if of_file is None:
        return None
    x, y = np.broadcast_to(np.asarray(of_file, np.float64), 2)
    return resolution_from_pixel_size(float(x), float(y), "image metadata", image_key)


def resolutions_from_spots(platform: Platform | None, spots: SpotsOnImage | None) -> list[Resolution]:
    """Resolutions measured from spots of a known platform: none, one, or several that contradict each other.

    One, from the pitch, where a diameter of the platform agrees with it. Where none does, as after a choice of spots,
    one from the pitch and one from each diameter.
    """
    if platform is None or spots is None:
        return []
    pitch_px = spot_pitch(_central_spots(spots.xy_px))
    by_pitch = Resolution(um_per_px=platform.pitch_um / pitch_px, origin="spot pitch")
    by_diameter = [
        Resolution(um_per_px=size / spots.diameter_px, origin=f"a spot diameter of {size:.4g} µm")
        for size in platform.diameters_um
    ]
    if any(check.similar_resolution(by_pitch.um_per_px, other.um_per_px) for other in by_diameter):
        return [by_pitch]
    return [by_pitch, *by_diameter] if np.isfinite(pitch_px) else by_diameter


def _central_spots(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """All spots; of very many only those around the middle, whose neighbours are among them."""
    if len(xy) <= PITCH_SAMPLE:
        return xy
    reach = np.ptp(xy, axis=0) * np.sqrt(PITCH_SAMPLE / len(xy)) / 2
    near: NDArray[np.float64] = xy[(np.abs(xy - np.median(xy, axis=0)) <= reach).all(axis=1)]
    return near


def reconcile_resolution(stated: Resolution | None, by_spots: list[Resolution], image_key: str) -> Resolution:
    """The stated resolution if spots do not contradict it, else that of the spots; an error if there is none.

    Several values from spots that contradict each other are not compared with a stated one.
    """
    check.resolution_known(len(by_spots) + (stated is not None), image_key)
    if stated is None:
        for other in by_spots[1:]:
            check.same_resolution(by_spots[0], other, image_key)
    found = by_spots[0] if stated is None else stated
    check.resolution(found.um_per_px, image_key)
    if stated is not None and len(by_spots) == 1:
        check.same_resolution(stated, by_spots[0], image_key)
    return found


def image_resolution(
    sdata: SpatialData, image_key: str, given: float | None, spots: SpotsOnImage | None = None
) -> float:
    """µm per full-resolution pixel: as given, else as recorded, else of the image file, else from spots.

    Spots of a known platform must agree within 5 %.
    """
    stated = stated_resolution(sdata, image_key, given)
    by_spots = [] if spots is None else resolutions_from_spots(spot_platform(sdata, spots.shapes_key), spots)
    return reconcile_resolution(stated, by_spots, image_key).um_per_px
