"""Contiguous blocks of the spots of one slide, for spatially blocked validation. numpy only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def spatial_blocks(
    xy: NDArray[np.float64], *, fraction: float = 0.2, n_blocks: int = 3, seed: int = 0
) -> NDArray[np.bool_]:
    """Mark ``round(fraction * n)`` spots ``(n, 2)`` in contiguous blocks far from each other; at least 1, never all."""
    n = len(xy)
    marked = np.zeros(n, bool)
    n_marked = min(max(round(fraction * n), 1), n - 1)
    sizes = [len(part) for part in np.array_split(np.arange(max(n_marked, 0)), max(1, n_blocks)) if len(part)]
    at, nearest = int(np.random.default_rng(seed).integers(max(n, 1))), np.full(n, np.inf)
    for size in sizes:
        distance = np.linalg.norm(xy - xy[at], axis=1)
        marked[np.argsort(np.where(marked, np.inf, distance), kind="stable")[:size]] = True
        nearest = np.minimum(nearest, distance)
        at = int(nearest.argmax())  # the next centre: the spot farthest from all centres
    return marked
