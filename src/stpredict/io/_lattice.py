"""Resolution from the spots of an array, whose pitch in µm is known. Arrays in, numbers out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._checks import slides as check_slides
from .._checks.slides import MAX_ANISOTROPY
from .._checks.training import warn
from .._geometry import fit_lattice, is_staggered
from .._resolution import Resolution, compare_resolutions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def resolution_from_lattice(
    array_xy: NDArray[np.float64], xy_px: NDArray[np.float64], pitch_um: float, *, given: float | None, name: str
) -> float:
    """µm per pixel of a section whose spots have a known pitch, or ``given``, with a warning if it differs by 5 %.

    On a staggered array ``pitch_um`` is the distance of diagonal neighbours. Pixels must be square within 1 % plus what
    the scatter of the spots explains; this is not checked on staggered arrays, whose steps along x and y differ.
    """
    lattice = fit_lattice(array_xy, xy_px)
    if lattice is None:
        if given is not None:
            return float(given)
        msg = (
            f"The resolution of {name!r} cannot be derived from the pitch of its {len(xy_px)} spots: at least three "
            "that do not lie in one line are needed. Give `um_per_px`."
        )
        raise ValueError(msg)
    staggered = is_staggered(array_xy)
    x, y = (float(value) for value in lattice.pitch_px)
    excess = lattice.anisotropy
    if not staggered and excess > MAX_ANISOTROPY + 3 * lattice.error:
        what = (
            f"The pitch of {name!r} is {x:.2f} px along x and {y:.2f} px along y ({100 * excess:.1f} % apart, at most "
            "1 % is allowed): its pixels are not square"
        )
        if given is None:
            msg = f"{what}. Resample the image to square pixels first, or give `um_per_px`."
            raise ValueError(msg)
        warn(f"{what}. `um_per_px={given:g}` is used for both; patches are stretched by the difference.")
    measured = pitch_um / (lattice.diagonal_px if staggered else float(lattice.pitch_px.mean()))
    if given is None:
        check_slides.resolution(measured, name)
        return measured
    by_pitch = Resolution(um_per_px=measured, origin="spot pitch")
    compare_resolutions(Resolution(um_per_px=given, origin="argument"), by_pitch, name)
    return given
