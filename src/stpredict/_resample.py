"""Resample decoded pixels into patches: loops compiled by numba, which release the interpreter's lock.

Imported only where patches are cut, since importing numba takes half a second. Nothing here reads an image.
"""

from __future__ import annotations

from math import ceil, floor
from typing import TYPE_CHECKING

import numpy as np

from ._numba import compile_loop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float = NDArray[np.float64]
    Int = NDArray[np.int32]
    Index = NDArray[np.intp]
    Byte = NDArray[np.uint8]

CELLS = 2048
"""Number of parts of a patch pixel along each axis; the square of it times 255 still fits 31 bits."""


@compile_loop
def area_average(canvas: Byte, corners: Float, step: Float, rows: Index, scale: int, out: Byte) -> None:
    """Cut windows out of a canvas ``(3, h, w)`` into ``out[rows, scale]``: a patch pixel is the mean over its square.

    ``corners`` are y and x of the upper left corners in canvas pixels, ``step`` canvas pixels per patch pixel. A patch
    pixel is divided into 2048 x 2048 cells, each of which takes the canvas pixel that its centre lies in. Their mean is
    exact, in whole numbers; halves are rounded up. (Pillow's ``resize(box=…, resample=BOX)`` rounds to 8 bits after
    either axis, and counts a pixel wholly or not at all where a box ends within it.)
    """
    size = out.shape[-1]
    line = np.empty(ceil(step[1] * size) + 4, np.int32)
    for i in range(len(rows)):
        patch = out[rows[i], scale]
        y_at, y_weight = taps(corners[i, 0], step[0], size)
        x_at, x_weight = taps(corners[i, 1], step[1], size)
        left, width = x_at[0], x_at[-1] - x_at[0] + len(x_weight)
        x_from = (x_at - left).astype(np.uint32)
        for c in range(3):
            for r in range(size):
                _blend(canvas[c, y_at[r] : y_at[r] + len(y_weight), left : left + width], y_weight[:, r], line)
                _shrink(line, x_from, x_weight, patch[c, r])


@compile_loop
def taps(start: float, step: float, size: int) -> tuple[Index, Int]:
    """First canvas pixel ``(size,)`` of each patch pixel, and cells ``(n_taps, size)`` in it and those after it."""
    n_taps = ceil(step) + 1
    first, cells = np.empty(size, np.intp), np.zeros((max(n_taps, 3), size), np.int32)
    for j in range(size):
        edge = start + step * j
        first[j] = floor(edge + 1e-9)
        counted = 0
        for k in range(n_taps):
            passed = ceil(min((first[j] + k + 1 - edge) / step, 1.0) * CELLS - 0.5)
            cells[k, j] = passed - counted
            counted = passed
    return first, cells


@compile_loop
def _blend(rows: Byte, weight: Int, line: Int) -> None:
    """Weighted sum of rows."""
    width = rows.shape[1]
    for x in range(width):
        line[x] = weight[0] * np.int32(rows[0, x])
    for k in range(1, len(weight)):
        if weight[k] != 0:
            for x in range(width):
                line[x] += weight[k] * np.int32(rows[k, x])


@compile_loop
def _shrink(line: Int, first: NDArray[np.uint32], weight: Int, out: Byte) -> None:
    """Weighted sum along a line, back to 8 bits. Most patches need three taps or fewer."""
    half, shift = np.int32(CELLS * CELLS // 2), np.int32(22)
    for j in range(len(out)):
        x = first[j]
        total = weight[0, j] * line[x] + weight[1, j] * line[x + 1] + weight[2, j] * line[x + 2]
        for k in range(3, len(weight)):
            total += weight[k, j] * line[x + k]
        out[j] = np.uint8((total + half) >> shift)


@compile_loop
def bilinear(canvas: Byte, centre: Float, step: Float, rows: Index, scale: int, out: Byte) -> None:
    """Cut rotated or sheared windows: each patch pixel is the mean of bilinear samples on a regular grid within it.

    The canvas ``(3, h, w)`` holds every window and a pixel more on each side. ``step`` is the movement in canvas
    pixels, (y, x) in rows, for one patch pixel down and one to the right.
    """
    size = out.shape[-1]
    n = max(2, ceil(np.abs(step).sum(axis=1).max()))
    for i in range(len(rows)):
        for r in range(size):
            for j in range(size):
                red, green, blue = 0.0, 0.0, 0.0
                for a in range(n):
                    for b in range(n):
                        down, right = r + (a + 0.5) / n - size / 2, j + (b + 0.5) / n - size / 2
                        y = centre[i, 0] + step[0, 0] * down + step[0, 1] * right - 0.5
                        x = centre[i, 1] + step[1, 0] * down + step[1, 1] * right - 0.5
                        red += _sample(canvas[0], y, x)
                        green += _sample(canvas[1], y, x)
                        blue += _sample(canvas[2], y, x)
                for c, total in enumerate((red, green, blue)):
                    out[rows[i], scale, c, r, j] = np.uint8(floor(total / (n * n) + 0.5))


@compile_loop
def _sample(channel: Byte, y: float, x: float) -> float:
    top, left = floor(y), floor(x)
    down, right = y - top, x - left
    above = (1 - right) * channel[top, left] + right * channel[top, left + 1]
    below = (1 - right) * channel[top + 1, left] + right * channel[top + 1, left + 1]
    sampled: float = (1 - down) * above + down * below
    return sampled
