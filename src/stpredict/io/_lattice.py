"""Resolution from the spots of an array, whose pitch in µm is known. Arrays in, numbers out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._checks import files as check

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTLIER = 4.0
"""Spots whose residual exceeds this many robust standard deviations do not count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lattice:
    """Where the array lies on the image."""

    pitch_px: NDArray[np.float64]
    """``(2,)`` pixels per step of the array along its x and its y."""
    diagonal_px: float
    """Pixels from a spot to the one a step of x and a step of y away, mean of both diagonals."""
    error: float
    """Relative standard error of the larger of both."""


def fit_lattice(array_xy: NDArray[np.float64], xy_px: NDArray[np.float64]) -> Lattice | None:
    """Least-squares affine map from array coordinates to pixels, spots off the lattice left out.

    Parameters
    ----------
    array_xy
        ``(n, 2)`` column and row of each spot in the array.
    xy_px
        ``(n, 2)`` spot centres in pixels.

    Returns
    -------
    The lattice; None where the spots do not span one.
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
    error = _error(design[kept], distance[kept], pitch)
    return Lattice(pitch_px=pitch, diagonal_px=float(diagonals.mean()), error=error)


def _error(design: NDArray[np.float64], distance: NDArray[np.float64], pitch: NDArray[np.float64]) -> float:
    n_free = max(2 * len(design) - 6, 1)
    variance = float(np.sum(distance**2)) / n_free
    slopes = np.linalg.inv(design.T @ design)[[0, 1], [0, 1]]
    return float(np.max(np.sqrt(variance * slopes) / pitch))


def is_staggered(array_xy: NDArray[np.integer] | NDArray[np.floating]) -> bool:
    """Whether every other position of an array is empty, as on arrays of about 2,000 spots.

    Parameters
    ----------
    array_xy
        ``(n, 2)`` column and row of each spot.

    Returns
    -------
    True if all x + y are even, or all are odd. Fewer than ten spots could be so by chance and give False.
    """
    odd = np.asarray(array_xy).sum(axis=1) % 2
    return len(odd) >= 10 and bool((odd == odd[0]).all())


def um_per_px(
    array_xy: NDArray[np.float64], xy_px: NDArray[np.float64], pitch_um: float, *, given: float | None, name: str
) -> float:
    """Resolution of a section whose spots lie on an array of known pitch.

    Parameters
    ----------
    array_xy
        ``(n, 2)`` column and row of each spot in the array.
    xy_px
        ``(n, 2)`` spot centres in pixels.
    pitch_um
        Distance of neighbouring spots in µm: a step of the array, or on a staggered array a diagonal one.
    given
        The user's word, which counts if it agrees with the spots.
    name
        Name of the section, for messages.

    Returns
    -------
    µm per pixel.

    Raises
    ------
    ValueError
        If the pitches along x and y differ by more than 1 % (beyond what the scatter of the spots explains; not on
        staggered arrays, whose steps differ), or if ``given`` differs from the measured value by more than 5 %.
    """
    found = fit_lattice(array_xy, xy_px)
    if found is None:
        if given is None:
            check.lattice(len(xy_px), name)
        return float(given or np.nan)
    staggered = is_staggered(array_xy)
    if not staggered:
        check.isotropic(found.pitch_px, found.error, name)
    measured = pitch_um / (found.diagonal_px if staggered else float(found.pitch_px.mean()))
    if given is None:
        return measured
    check.agrees(given, measured, name)
    return given
