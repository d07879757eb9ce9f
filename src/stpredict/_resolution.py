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
from ._checks.training import warn
from ._geometry import fit_lattice, is_staggered, spot_pitch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ._geometry import Lattice

VISIUM_HD_BIN = re.compile(r"square_(\d{3})um")
"""Names that spatialdata-io gives to the bins of Visium HD."""
PITCH_SAMPLE = 20_000
"""Number of spots from which the pitch is measured, where there are more."""
MAX_FACTOR = 1.5
"""Two sources that differ by more than this factor cannot both be of one image."""


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
    """Diameters that files of this platform give to a spot, the most common one first."""
    array_steps_um: tuple[float, float]
    """Distance of neighbouring columns and of neighbouring rows of the array."""
    staggered: bool
    """Whether every other position of the array is empty."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SpotsOnImage:
    """Spots from which the resolution of an image can be measured."""

    shapes_key: str
    """The element they come from."""
    xy_px: NDArray[np.float64]
    """``(n, 2)`` centres in full-resolution pixels."""
    diameter_px: float
    """Median diameter."""
    array_xy: NDArray[np.float64] | None = None
    """``(n, 2)`` column and row of each spot in the array, if known."""


VISIUM = Platform(pitch_um=100, diameters_um=(65, 70, 60, 55), array_steps_um=(50, 50 * 3**0.5), staggered=True)
"""The pitch is that of all slides.

Spots are 55 µm wide, but Space Ranger's ``spot_diameter_fullres`` is that of a theoretical spot: 65 µm on slides of
versions 1 and 2, for CytAssist 70 µm (6.5 mm) and 60 µm (11 mm).
"""


def spot_platform(sdata: SpatialData, shapes_key: str) -> Platform | None:
    """The platform of the spots according to our reader, or that of spatialdata-io; None if unknown."""
    ours = sdata.attrs.get(keys.ATTRS, {})
    reader = ours.get(keys.PLATFORM, {}).get(shapes_key, sdata.attrs.get(keys.READER))
    if shapes_key in {**ours.get(keys.GRID, {}), **ours.get(keys.PSEUDO_SPOTS, {})}:  # our own, of any geometry
        return None
    bins = VISIUM_HD_BIN.search(shapes_key)
    if reader == "visium_hd" and bins:
        return bins_of(float(bins[1]))
    return VISIUM if reader == "visium" else None


def bins_of(side_um: float) -> Platform:
    """Bins of Visium HD, whose diameter is their side or that of a circle of their area."""
    circle_um = 2 * side_um / np.sqrt(np.pi)
    steps_um = (side_um, side_um)
    return Platform(pitch_um=side_um, diameters_um=(side_um, circle_um), array_steps_um=steps_um, staggered=False)


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
    """The resolution by the pitch of a known platform, and that of the spot diameter if it is none of the platform.

    The pitch is that of the array, which no choice of spots changes, or without its coordinates that of neighbours.
    """
    if platform is None or spots is None:
        return []
    lattice = array_lattice(platform, spots)
    if lattice is not None:
        um_per_px = float((1 / lattice.pitch_px).mean())
    else:
        um_per_px = platform.pitch_um / spot_pitch(_central_spots(spots.xy_px))
    if not np.isfinite(um_per_px):
        return []
    by_pitch = Resolution(um_per_px=um_per_px, origin="spot pitch")
    by_diameter = [
        Resolution(um_per_px=size / spots.diameter_px, origin=f"a spot diameter of {size:.4g} µm")
        for size in platform.diameters_um
    ]
    agree = any(check.similar_resolution(um_per_px, other.um_per_px) for other in by_diameter)
    return [by_pitch, *([] if agree else by_diameter[:1])]


def array_lattice(platform: Platform, spots: SpotsOnImage) -> Lattice | None:
    """Where the array lies, in px per µm; None if it is not that of the platform, or spots lie in one line."""
    if spots.array_xy is None or is_staggered(spots.array_xy) != platform.staggered:
        return None
    some = np.linspace(0, len(spots.xy_px) - 1, min(len(spots.xy_px), PITCH_SAMPLE)).astype(np.int64)
    return fit_lattice(spots.array_xy[some] * platform.array_steps_um, spots.xy_px[some])


def square_lattice(platform: Platform, spots: SpotsOnImage, name: str, given: float | None = None) -> None:
    """Refuse positions by which pixels are not square within 1 % plus what the scatter of the spots explains.

    With a given resolution, which is used whatever the positions say, it is a warning.
    """
    lattice = array_lattice(platform, spots)
    if lattice is None or lattice.anisotropy <= check.MAX_ANISOTROPY + 3 * lattice.error:
        return
    x, y = 1 / lattice.pitch_px
    if given is None:
        check.square_pixels(float(x), float(y), name)
    warn(
        f"By the positions of its spots, pixels of image {name!r} are not square: {x:.4g} µm wide and {y:.4g} µm high. "
        f"`um_per_px={given:g}` is used for both; patches are stretched by the difference."
    )


def _central_spots(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """All spots; of very many only those around the middle, whose neighbours are among them."""
    if len(xy) <= PITCH_SAMPLE:
        return xy
    reach = np.ptp(xy, axis=0) * np.sqrt(PITCH_SAMPLE / len(xy)) / 2
    near: NDArray[np.float64] = xy[(np.abs(xy - np.median(xy, axis=0)) <= reach).all(axis=1)]
    return near


def reconcile_resolution(stated: Resolution | None, by_spots: list[Resolution], image_key: str) -> Resolution:
    """The stated resolution if the first one from spots, their pitch, agrees within 5 %, else that of the pitch.

    An argument wins over everything. Sources that differ from the result are a warning, and an error if they differ by
    more than a factor of 1.5. Spots that contradict themselves by so much are not compared with a stated resolution.
    """
    if stated is None:
        known = by_spots
    else:
        contradictory = len(by_spots) > 1 and not _within_factor(*by_spots[:2])
        known = [stated] if contradictory else [stated, *by_spots[:1]]
    check_resolution_known(len(known), image_key)
    check.resolution(known[0].um_per_px, image_key)
    similar = check.similar_resolution(known[0].um_per_px, known[-1].um_per_px)
    found = known[0] if similar or stated is None or stated.origin == "argument" else known[-1]
    check.resolution(found.um_per_px, image_key)
    for other in known:
        compare_resolutions(found, other, image_key)
    return found


def check_resolution_known(n_sources: int, image_key: str) -> None:
    """Refuse to guess a resolution."""
    if not n_sources:
        msg = (
            f"The resolution of image {image_key!r} is not known: nothing is recorded and the platform is not. Call "
            "`stp.pp.resolution(sdata, um_per_px=…)`, or with `pitch_um=` or `diameter_um=` of the spots."
        )
        raise ValueError(msg)


def compare_resolutions(used: Resolution, other: Resolution, image_key: str) -> None:
    """Warn where another source differs by more than 5 %; refuse more than a factor of 1.5, except from an argument."""
    if check.similar_resolution(used.um_per_px, other.um_per_px):
        return
    what = (
        f"The resolution of image {image_key!r} is {used.um_per_px:.4g} µm per pixel by {_source_name(used)}, but "
        f"{other.um_per_px:.4g} by {_source_name(other)} ({100 * (used.um_per_px / other.um_per_px - 1):+.1f} %)"
    )
    if used.origin != "argument" and not _within_factor(used, other):
        msg = f"{what}; they may differ by a factor of {MAX_FACTOR:g}. Give the right one as `um_per_px`."
        raise ValueError(msg)
    warn(f"{what}. The first is used; if it is wrong, give the right one as `um_per_px`.")


def _within_factor(one: Resolution, other: Resolution) -> bool:
    """Whether two resolutions differ by no more than a factor of 1.5."""
    return bool(1 / MAX_FACTOR <= one.um_per_px / other.um_per_px <= MAX_FACTOR)


def _source_name(resolution: Resolution) -> str:
    return {"argument": "the argument `um_per_px`", "record": "what the object records"}.get(
        resolution.origin, f"its {resolution.origin}" if resolution.origin.startswith("spot") else resolution.origin
    )


def image_resolution(
    sdata: SpatialData, image_key: str, given: float | None, spots: SpotsOnImage | None = None
) -> float:
    """µm per full-resolution pixel: as given, else as recorded, else of the image file, else from spots.

    Where the pitch of a known platform differs by more than 5 % from what was not given, the pitch decides.
    """
    stated = stated_resolution(sdata, image_key, given)
    by_spots = [] if spots is None else resolutions_from_spots(spot_platform(sdata, spots.shapes_key), spots)
    return reconcile_resolution(stated, by_spots, image_key).um_per_px
