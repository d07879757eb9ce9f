"""Resolution from the spots of an array, whose pitch in µm is known. Arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._checks.slides import MAX_ANISOTROPY, same_resolution
from .._resolution import Resolution

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTLIER = 4.0
"""Spots are left out if their residual exceeds this multiple of the median residual."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lattice:
    """Where the array lies on the image."""

    pitch_px: NDArray[np.float64]
    """``(2,)`` pixels per step of the array along its x and its y."""
    diagonal_px: float
    """Distance in pixels to the diagonal neighbour, mean of both diagonals."""
    error: float
    """Relative standard error of the pitch, the larger one of x and y."""


def fit_lattice(array_xy: NDArray[np.float64], xy_px: NDArray[np.float64]) -> Lattice | None:
    """Least-squares affine map from ``(n, 2)`` array coordinates to pixels, without outliers.

    None where the spots lie in one line or are fewer than three.
    """
    design = np.column_stack([array_xy, np.ones(len(array_xy))])
    kept = np.ones(len(design), bool)
    for _ in range(5):
        if np.linalg.matrix_rank(design[kept]) < 3:
            return None
        matrix = np.linalg.lstsq(design[kept], xy_px[kept], rcond=None)[0]
        distance = np.linalg.norm(xy_px - design @ matrix, axis=1)
        limit = OUTLIER * max(float(np.median(distance[kept])), 1e-3 * float(np.abs(matrix[:2]).max()))
        if (kept == (distance <= limit)).all():
            break
        kept = distance <= limit
    pitch = np.linalg.norm(matrix[:2], axis=1)
    diagonals = np.linalg.norm([matrix[0] + matrix[1], matrix[0] - matrix[1]], axis=1)
    variance = float(np.sum(distance[kept] ** 2)) / max(2 * int(kept.sum()) - 6, 1)
    slopes = np.linalg.inv(design[kept].T @ design[kept])[[0, 1], [0, 1]]
    error = float(np.max(np.sqrt(variance * slopes) / pitch))
    return Lattice(pitch_px=pitch, diagonal_px=float(diagonals.mean()), error=error)


def is_staggered(array_xy: NDArray[np.integer] | NDArray[np.floating]) -> bool:
    """Whether every other position of an array is empty, as on arrays of about 2,000 spots.

    Then x + y is even for all spots, or odd for all. Fewer than ten spots could be so by chance: False.
    """
    odd = np.asarray(array_xy).sum(axis=1) % 2
    return len(odd) >= 10 and bool((odd == odd[0]).all())


def resolution_from_lattice(
    array_xy: NDArray[np.float64], xy_px: NDArray[np.float64], pitch_um: float, *, given: float | None, name: str
) -> float:
    """µm per pixel of a section whose spots have a known pitch: ``given`` if it agrees with the spots within 5 %.

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
    excess = abs(x / y - 1)
    if not staggered and excess > MAX_ANISOTROPY + 3 * lattice.error:
        msg = (
            f"The pitch of {name!r} is {x:.2f} px along x and {y:.2f} px along y ({100 * excess:.1f} % apart, at most "
            "1 % is allowed): its pixels are not square. Resample the image to square pixels first."
        )
        raise ValueError(msg)
    measured = pitch_um / (lattice.diagonal_px if staggered else float(lattice.pitch_px.mean()))
    if given is None:
        return measured
    by_pitch = Resolution(um_per_px=measured, origin="spot pitch")
    same_resolution(Resolution(um_per_px=given, origin="argument"), by_pitch, name)
    return given
