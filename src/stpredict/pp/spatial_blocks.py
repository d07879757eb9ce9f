"""Contiguous blocks of the spots of one slide, for spatially blocked validation. numpy only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def spatial_blocks(
    xy: NDArray[np.float64], *, fraction: float = 0.2, n_blocks: int = 3, seed: int = 0
) -> NDArray[np.bool_]:
    """Mark ``round(fraction * n)`` spots ``(n, 2)`` in contiguous blocks far from each other; at least 1, never all."""
    n = len(xy)
    marked = np.zeros(n, bool)
    n_marked = min(max(round(fraction * n), 1), n - 1)
    sizes = [len(part) for part in np.array_split(np.arange(max(n_marked, 0)), max(1, n_blocks)) if len(part)]
    centres: list[NDArray[np.float64]] = []
    for size in sizes:
        centre = _far_spot(xy, centres, seed)
        centres.append(centre)
        distance = np.where(marked, np.inf, np.linalg.norm(xy - centre, axis=1))
        marked[np.argsort(distance, kind="stable")[:size]] = True
    return marked


def _far_spot(xy: NDArray[np.float64], centres: Sequence[NDArray[np.float64]], seed: int) -> NDArray[np.float64]:
    if not centres:
        first: NDArray[np.float64] = xy[np.random.default_rng(seed).integers(len(xy))]
        return first
    nearest = np.min([np.linalg.norm(xy - centre, axis=1) for centre in centres], axis=0)
    far: NDArray[np.float64] = xy[int(np.argmax(nearest))]
    return far
