"""An image averaged down to a small size, read strip by strip. No SpatialData."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from .._pixels import best_level, rgb_strips

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._slides.levels import Level

    Float = NDArray[np.float32]

STRIP_ROWS: Final = 2048
"""Approximate number of rows decoded at a time."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Thumbnail:
    """A small image and where its pixels are."""

    rgb: Float
    """``(y, x, 3)`` in [0, 255]."""
    step: tuple[float, float]
    """Full-resolution pixels a pixel, along y and x."""
    origin: tuple[float, float]
    """Where its corner is, in full-resolution pixels along y and x."""
    um_per_px: float
    """µm a pixel, the mean of y and x."""


def thumbnail(levels: tuple[Level, ...], um_per_px: float, resolution_um: float, image_key: str) -> Thumbnail:
    """Average an image in whole blocks down to about ``resolution_um``, never coarser."""
    position = best_level(levels, resolution_um / um_per_px)
    k = max(1, int(resolution_um / um_per_px / max(levels[position].factor) * (1 + 1e-6)))
    level, strips = rgb_strips(levels, position, max(1, STRIP_ROWS // k) * k, image_key)
    rgb = np.concatenate([block_means(strip, k) for strip in strips], axis=1).transpose(1, 2, 0)
    step = (k * level.factor[0], k * level.factor[1])
    return Thumbnail(rgb=rgb, step=step, origin=level.offset, um_per_px=float(np.mean(step)) * um_per_px)


def block_means(pixels: NDArray[np.uint8] | Float, k: int) -> Float:
    """Means over blocks of ``k`` by ``k``; at the end of an axis over what is left."""
    if k == 1:
        return pixels.astype(np.float32)
    height, width = pixels.shape[1:]
    y, x = np.arange(0, height, k), np.arange(0, width, k)
    total = np.add.reduceat(np.add.reduceat(pixels, y, axis=1, dtype=np.uint32), x, axis=2)
    n = np.minimum(k, height - y)[:, None] * np.minimum(k, width - x)
    means: Float = (total / n).astype(np.float32)
    return means
