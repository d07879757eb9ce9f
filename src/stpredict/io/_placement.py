"""Match patches to spots by place, and find the scale and offset at which they would match. Arrays only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._geometry import spot_pitch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

COMMON_SCALES = (1.0, 2.0, 4.0, 8.0, 0.5, 0.25)
"""Ratios between the pixels of levels, and of magnifications."""
N_SAMPLED = 64
"""Spots whose differences from all patches vote for an offset."""
MOST_PATCHES = 20_000
"""Patches that are compared with these spots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """A scale and an offset at which patches match spots: ``xy * scale + offset_px``."""

    scale: float
    offset_px: tuple[float, float]
    n_matched: int
    """Number of spots that have a patch then."""


def match_by_place(patches: Points, spots: Points, tolerance_px: float) -> tuple[NDArray[np.intp], Points]:
    """The nearest patch of each spot, -1 where it is farther than the tolerance, and its distance."""
    from scipy.spatial import cKDTree  # costs 100 ms of import

    distance, nearest = cKDTree(patches).query(spots)
    return np.where(distance <= tolerance_px, nearest, -1), distance


def find_placement(patches: Points, spots: Points, tolerance_px: float, um_per_px: float) -> Placement | None:
    """The scale and offset at which most spots have a patch, if these are most spots; the smallest change that does."""
    pitch = spot_pitch(spots) / spot_pitch(patches)
    extent = float(np.median(np.ptp(spots, axis=0) / np.maximum(np.ptp(patches, axis=0), 1e-9)))
    scales = [*COMMON_SCALES, 1 / um_per_px, *(scale for scale in (pitch, extent) if np.isfinite(scale) and scale > 0)]
    found = [_refine(patches, spots, scale, tolerance_px) for scale in scales]
    best = max(found, key=lambda each: (each.n_matched, -abs(np.log(each.scale)), -np.abs(each.offset_px).sum()))
    return best if best.n_matched > len(spots) / 2 else None


def _refine(patches: Points, spots: Points, scale: float, tolerance_px: float) -> Placement:
    """The best offset at a scale; both are then fitted to the pairs that match."""
    offset = _vote(patches * scale, spots, tolerance_px)
    rows, _ = match_by_place(patches * scale + offset, spots, tolerance_px)
    pairs = rows >= 0
    if pairs.sum() > 2:
        x, y = patches[rows[pairs]], spots[pairs]
        centered = x - x.mean(axis=0)
        spread = float((centered**2).sum())
        fitted = float((centered * (y - y.mean(axis=0))).sum()) / spread if spread else scale
        fitted = round(scale, 6) if abs(fitted / scale - 1) < 1e-4 else round(fitted, 6)
        shift = (y - fitted * x).mean(axis=0)
        again, _ = match_by_place(patches * fitted + shift, spots, tolerance_px)
        if (again >= 0).sum() >= pairs.sum():
            scale, offset, pairs = fitted, shift, again >= 0
    x_px, y_px = (float(np.round(value, 1)) + 0.0 for value in offset)
    return Placement(scale=scale, offset_px=(x_px, y_px), n_matched=int(pairs.sum()))


def _vote(patches: Points, spots: Points, tolerance_px: float) -> Points:
    """The difference between spots and patches that most pairs share; of about equal ones the smallest."""
    rng = np.random.default_rng(0)
    some = spots[rng.choice(len(spots), min(N_SAMPLED, len(spots)), replace=False)]
    others = patches[rng.choice(len(patches), min(MOST_PATCHES, len(patches)), replace=False)]
    differences = (some[:, None] - others[None]).reshape(-1, 2)
    bins = np.rint(differences / tolerance_px).astype(np.int64)
    cells, votes = np.unique(bins, axis=0, return_counts=True)
    likely = cells[votes >= 0.98 * votes.max()]
    cell = likely[np.abs(likely).sum(axis=1).argmin()]
    near = np.abs(differences - cell * tolerance_px).max(axis=1) <= tolerance_px
    center: Points = np.median(differences[near], axis=0)
    return center
