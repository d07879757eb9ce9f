"""Regular lattices of spots. Arrays in, numbers out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .._geometry import spot_pitch

if TYPE_CHECKING:
    from numpy.typing import NDArray

Layout = Literal["hexagonal", "square"]


def infer_lattice(xy: NDArray[np.float64]) -> tuple[float | None, Layout]:
    """Pitch (None for fewer than two spots) and layout of measured spots ``(n, 2)``, however they are turned.

    The layout is hexagonal where directions to neighbours repeat every 60 degrees more than every 90.
    """
    from scipy.spatial import cKDTree

    if len(xy) < 2:
        return None, "square"
    pairs = cKDTree(xy).query_pairs(1.25 * spot_pitch(xy), output_type="ndarray")
    step = (xy[pairs[:, 1]] - xy[pairs[:, 0]]) @ np.array([1, 1j])
    distance = np.abs(step)
    turn = step / np.maximum(distance, 1e-12)
    six, four = (abs((turn**n).sum()) for n in (6, 4))
    return float(np.median(distance)), "hexagonal" if six > four else "square"
