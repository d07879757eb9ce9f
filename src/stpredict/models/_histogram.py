"""Histograms of pixel values in windows of patches, compiled without the GIL.

Imported only where it is called, since numba costs half a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._numba import compile_loop

if TYPE_CHECKING:
    from numpy.typing import NDArray


@compile_loop
def histograms(patches: NDArray[np.uint8], margin: int) -> NDArray[np.int64]:
    """Histogram of each channel in the spot (the narrowest patch without ``margin``) and in every field of view."""
    n, n_scales, n_channels, size, _ = patches.shape
    found = np.zeros((n, n_scales + 1, n_channels, 256), np.int64)
    for i in range(n):
        for c in range(n_channels):
            found[i, 0, c] = _histogram(patches[i, 0, c, margin : size - margin, margin : size - margin])
            for s in range(n_scales):
                found[i, s + 1, c] = _histogram(patches[i, s, c])
    return found


@compile_loop
def _histogram(plane: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Histogram with four sets of counters: neighbouring pixels are often equal and would wait for one counter."""
    counts = np.zeros((4, 256), np.int32)
    height, width = plane.shape
    whole = width - width % 4
    for y in range(height):
        row = plane[y]
        for x in range(0, whole, 4):
            counts[0, row[x]] += 1
            counts[1, row[x + 1]] += 1
            counts[2, row[x + 2]] += 1
            counts[3, row[x + 3]] += 1
        for x in range(whole, width):
            counts[0, row[x]] += 1
    total: NDArray[np.int32] = counts[0] + counts[1] + counts[2] + counts[3]
    return total
