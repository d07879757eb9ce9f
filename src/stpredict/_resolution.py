"""Which resolution an image has, and who says so: the one place where sources are ordered and compared.

Numbers and what is recorded in `sdata.attrs`; nothing here finds spots (see `_slides`) or reads pixels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import _keys as keys
from ._checks import resolution as check
from ._checks import slides as check_slides
from ._geometry import spot_pitch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

HD_BIN = re.compile(r"square_(\d{3})um")
"""Names that spatialdata-io gives to the bins of Visium HD."""
MANY = 20_000
"""Of more spots, about so many are enough to find the pitch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """A resolution and its origin."""

    um_per_px: float
    """µm per full-resolution pixel."""
    origin: str
    """Who says so: ``"argument"``, ``"spot pitch"``, the name of a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """What is known of the spots of a platform."""

    pitch_um: float
    """Distance between the centres of neighbouring spots."""
    diameters_um: tuple[float, ...]
    """Diameters that files of this platform give to a spot."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spots:
    """Spots on an image."""

    shapes_key: str
    """The element they come from."""
    xy_px: NDArray[np.float64]
    """``(n, 2)`` centres in full-resolution pixels."""
    diameter_px: float
    """Median diameter."""


VISIUM = Platform(pitch_um=100.0, diameters_um=(65.0, 55.0))
"""Spots are 55 µm wide, but Space Ranger's ``spot_diameter_fullres`` is that of a theoretical spot of 65 µm."""


def platform(sdata: SpatialData, shapes_key: str) -> Platform | None:
    """What the reader that made an object says of its spots.

    Parameters
    ----------
    sdata
        The object.
    shapes_key
        The spots; spatialdata-io names the bins of Visium HD by their size.

    Returns
    -------
    The platform, None where it is not known.
    """
    reader, ours = sdata.attrs.get(keys.READER), sdata.attrs.get(keys.ATTRS, {})
    if shapes_key in {**ours.get(keys.GRID, {}), **ours.get(keys.PSEUDO_SPOTS, {})}:  # our own, of any geometry
        return None
    bins = HD_BIN.search(shapes_key)
    if reader == "visium_hd" and bins:
        side = float(bins[1])
        return Platform(pitch_um=side, diameters_um=(side, 2 * side / np.sqrt(np.pi)))  # circle, or area of a square
    return VISIUM if reader == "visium" else None


def of_sides(x_um: float, y_um: float, origin: str, name: str) -> Known:
    """A resolution from the width and height of a pixel.

    Parameters
    ----------
    x_um, y_um
        Width and height in µm.
    origin
        Who says so.
    name
        Name of the image, for messages.

    Returns
    -------
    Their mean.

    Raises
    ------
    ValueError
        If pixels are not square within 1 %.
    """
    check.square_pixels(x_um, y_um, name)
    return Known(um_per_px=(x_um + y_um) / 2, origin=origin)


def told(sdata: SpatialData, image_key: str, given: float | None) -> Known | None:
    """What the user says, else what is recorded, else what the file of the image says.

    Parameters
    ----------
    sdata
        The object.
    image_key
        The image.
    given
        The user's word, if any.

    Returns
    -------
    The resolution, None where nobody says anything.
    """
    ours = sdata.attrs.get(keys.ATTRS, {})
    if given is not None:
        return Known(um_per_px=float(given), origin="argument")
    recorded = ours.get(keys.UM_PER_PX, {}).get(image_key)
    if recorded is not None:
        return Known(um_per_px=float(recorded), origin=ours.get(keys.UM_PER_PX_FROM, {}).get(image_key, "record"))
    of_file = ours.get(keys.SLIDE, {}).get(image_key, {}).get(keys.UM_PER_PX)
    if of_file is None:
        return None
    x, y = np.broadcast_to(np.asarray(of_file, np.float64), 2)
    return of_sides(float(x), float(y), "image metadata", image_key)


def measured(known: Platform | None, spots: Spots | None) -> list[Known]:
    """What spots of a known platform say.

    Parameters
    ----------
    known
        Their platform.
    spots
        The spots.

    Returns
    -------
    Nothing; one value, by the pitch, where a diameter of the platform agrees with it; or one for the pitch and one for
    each diameter where none does, as after a choice of spots.
    """
    if known is None or spots is None:
        return []
    pitch_px = spot_pitch(_some(spots.xy_px))
    by_pitch = Known(um_per_px=known.pitch_um / pitch_px, origin="spot pitch")
    by_diameter = [
        Known(um_per_px=size / spots.diameter_px, origin=f"a spot diameter of {size:.4g} µm")
        for size in known.diameters_um
    ]
    if any(check.agree(by_pitch.um_per_px, other.um_per_px) for other in by_diameter):
        return [by_pitch]
    return [by_pitch, *by_diameter] if np.isfinite(pitch_px) else by_diameter


def _some(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """All spots; of very many those around the middle, whose neighbours are among them."""
    if len(xy) <= MANY:
        return xy
    reach = np.ptp(xy, axis=0) * np.sqrt(MANY / len(xy)) / 2
    near: NDArray[np.float64] = xy[(np.abs(xy - np.median(xy, axis=0)) <= reach).all(axis=1)]
    return near


def settle(said: Known | None, by_spots: list[Known], image_key: str) -> Known:
    """The resolution of an image.

    Parameters
    ----------
    said
        What was told; it counts, if the spots do not contradict it.
    by_spots
        What spots of a known platform say. Several values that differ say nothing of what was told.
    image_key
        Name of the image, for messages.

    Returns
    -------
    The resolution and its origin.

    Raises
    ------
    ValueError
        If nothing is known, it is no resolution, or sources differ by more than 5 %.
    """
    check_slides.resolution_known(None if said is None and not by_spots else 0.0, image_key)
    if said is None:
        for other in by_spots[1:]:
            check.agrees(by_spots[0], other, image_key)
    found = by_spots[0] if said is None else said
    check_slides.resolution(found.um_per_px, image_key)
    if said is not None and len(by_spots) == 1:
        check.agrees(said, by_spots[0], image_key)
    return found
