"""From an image pyramid to the pixels of many windows: uint8 RGB patches. numpy only, no torch.

Windows are area-averaged from the nearest finer level. Nothing here knows of tables or SpatialData.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from ._checks import slides as check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ._geometry import PatchSpec
    from ._slides import Level

CHUNK_PX = 1024
"""Side of the blocks that are read and kept when a level does not fit the byte budget."""


class PatchReader:
    """Reads the patches of many spots of one image.

    For each scale the nearest finer pyramid level is area-averaged to ``patch.size_px``. A level that fits the byte
    budget is held whole; otherwise blocks of it are, the least recently used dropped first.

    Parameters
    ----------
    levels
        The pyramid, finest first.
    um_per_px
        µm per full-resolution pixel.
    patch
        Fields of view, size and fill.
    budget_bytes
        How much decoded image may be held.
    image_key
        Name of the image, for messages.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        um_per_px: float,
        patch: PatchSpec,
        *,
        budget_bytes: int = 1 << 30,
        image_key: str = "",
    ) -> None:
        check.colour_image(levels[0].pixels.shape, image_key)
        self.patch = patch
        self.sides_px = np.asarray(patch.fov_um) / um_per_px
        self._levels = [_best_level(levels, side / patch.size_px) for side in self.sides_px]
        self._size_px = np.asarray(levels[0].pixels.shape[:0:-1])
        gain = _gain(levels, image_key)
        used = {id(level): level for level in self._levels}
        each = budget_bytes // len(used)
        self._blocks = {key: _Blocks(level.pixels, gain, each) for key, level in used.items()}

    def read(self, xy_px: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read the patches of every scale around each centre.

        Parameters
        ----------
        xy_px
            ``(n, 2)`` centres in full-resolution pixels.

        Returns
        -------
        Patches ``(n, n_scales, 3, size_px, size_px)`` and ``(n,)`` whether a window left the image or held
        missing (NaN) pixels, which are filled.
        """
        n, size = len(xy_px), self.patch.size_px
        patches = np.empty((n, len(self.sides_px), 3, size, size), np.uint8)
        flagged = self._leaves_image(xy_px)
        order = self.order(xy_px)
        for s, (side, level) in enumerate(zip(self.sides_px, self._levels, strict=True)):
            blocks = self._blocks[id(level)]
            for i in order:
                patches[i, s], missing = self._patch(blocks, level.factor, xy_px[i], side)
                flagged[i] |= missing
        return patches, flagged

    def order(self, xy_px: NDArray[np.float64]) -> NDArray[np.intp]:
        """The order in which windows are best visited, so that each part of the image is decoded once.

        Parameters
        ----------
        xy_px
            ``(n, 2)`` centres in full-resolution pixels.

        Returns
        -------
        ``(n,)`` positions in ``xy_px``.
        """
        return np.lexsort((xy_px[:, 0] // CHUNK_PX, xy_px[:, 1] // CHUNK_PX))

    def _leaves_image(self, xy_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        half = self.sides_px.max() / 2
        outside: NDArray[np.bool_] = ((xy_px < half - 1e-6) | (xy_px > self._size_px - half + 1e-6)).any(axis=1)
        return outside

    def _patch(
        self, blocks: _Blocks, factor: tuple[float, float], xy: NDArray[np.float64], side: float
    ) -> tuple[NDArray[np.uint8], bool]:
        size = self.patch.size_px
        (y0, y1, y_at, y_weight) = _taps(float(xy[1]) / factor[0], side / factor[0], size)
        (x0, x1, x_at, x_weight) = _taps(float(xy[0]) / factor[1], side / factor[1], size)
        pixels, missing = _window(blocks, (y0, y1), (x0, x1), self.patch.fill)
        rows = sum(pixels[:, y_at + k] * y_weight[k][:, None] for k in range(len(y_weight)))
        mean = sum(rows[:, :, x_at + k] * x_weight[k] for k in range(len(x_weight)))
        return np.rint(mean).astype(np.uint8), missing


def _best_level(levels: Sequence[Level], ratio: float) -> Level:
    """The coarsest level that is still at least as fine as ``ratio`` full-resolution pixels a pixel."""
    fine = [level for level in levels if max(level.factor) <= ratio * (1 + 1e-6)]
    return max(fine, key=lambda level: max(level.factor)) if fine else levels[0]


def _taps(centre: float, side: float, size: int) -> tuple[int, int, NDArray[np.intp], NDArray[np.float32]]:
    """Weights of an area average along one axis.

    Output pixel ``i`` covers ``[edge_i, edge_i+1)``; it is the sum over ``k`` of ``weight[k, i] * pixel[at[i] + k]``,
    with ``at`` counted from ``low``. Returns the pixel range ``[low, high)``, ``at`` and ``weight``.
    """
    step = side / size
    edges = centre - side / 2 + step * np.arange(size + 1)
    start = np.floor(edges[:-1] + 1e-9).astype(np.intp)
    n_taps = int(np.ceil(step)) + 1
    pixel = start + np.arange(n_taps)[:, None]
    overlap = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    weight = np.clip(overlap, 0, None)
    low = int(start[0])
    return low, int(start[-1]) + n_taps, start - low, (weight / weight.sum(axis=0)).astype(np.float32)


class _Blocks:
    """One level as float RGB in [0, 255]: whole in memory where it fits the budget, else recently used blocks."""

    def __init__(self, pixels: Any, gain: float, budget_bytes: int) -> None:
        self.shape = pixels.shape[-2:]
        self._pixels, self._gain = pixels, gain
        itemsize = int(np.dtype(pixels.dtype).itemsize)
        whole = pixels.shape[0] * self.shape[0] * self.shape[1] * itemsize <= budget_bytes
        self._side = max(self.shape) if whole else CHUNK_PX
        self._most = max(4, budget_bytes // (pixels.shape[0] * self._side**2 * itemsize))
        self._held: OrderedDict[tuple[int, int], NDArray[Any]] = OrderedDict()

    def window(self, y: tuple[int, int], x: tuple[int, int]) -> tuple[NDArray[np.float32], bool]:
        """Pixels ``(3, h, w)`` of a range inside the level, and whether any is missing."""
        side = self._side
        rows = [
            np.concatenate([self._part(by, bx, y, x) for bx in range(x[0] // side, (x[1] - 1) // side + 1)], axis=2)
            for by in range(y[0] // side, (y[1] - 1) // side + 1)
        ]
        return _rgb(np.concatenate(rows, axis=1), self._gain)

    def _part(self, by: int, bx: int, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        y0, x0 = by * self._side, bx * self._side
        block = self._block(by, bx)
        return block[:, max(y[0] - y0, 0) : y[1] - y0, max(x[0] - x0, 0) : x[1] - x0]

    def _block(self, by: int, bx: int) -> NDArray[Any]:
        if (by, bx) not in self._held:
            while len(self._held) >= self._most:
                self._held.popitem(last=False)
            y0, x0 = by * self._side, bx * self._side
            self._held[by, bx] = np.asarray(self._pixels[:, y0 : y0 + self._side, x0 : x0 + self._side])
        self._held.move_to_end((by, bx))
        return self._held[by, bx]


def _window(blocks: _Blocks, y: tuple[int, int], x: tuple[int, int], fill: str) -> tuple[NDArray[np.float32], bool]:
    """Pixels ``(3, h, w)`` of any range: what lies beyond the level is filled."""
    height, width = blocks.shape
    if min(y[0], x[0]) >= 0 and y[1] <= height and x[1] <= width:
        return blocks.window(y, x)
    if fill == "reflect":
        rows, columns = _mirrored(y, height), _mirrored(x, width)
        low_y, low_x = int(rows.min()), int(columns.min())
        pixels, missing = blocks.window((low_y, int(rows.max()) + 1), (low_x, int(columns.max()) + 1))
        return pixels[:, rows - low_y][:, :, columns - low_x], missing
    filled = np.full((3, y[1] - y[0], x[1] - x[0]), 255, np.float32)
    inner_y, inner_x = (max(y[0], 0), min(y[1], height)), (max(x[0], 0), min(x[1], width))
    if inner_y[0] >= inner_y[1] or inner_x[0] >= inner_x[1]:
        return filled, False
    pixels, missing = blocks.window(inner_y, inner_x)
    filled[:, inner_y[0] - y[0] : inner_y[1] - y[0], inner_x[0] - x[0] : inner_x[1] - x[0]] = pixels
    return filled, missing


def _mirrored(span: tuple[int, int], size: int) -> NDArray[np.intp]:
    """Indices of a range continued by mirroring at both edges."""
    index = np.mod(np.arange(*span), 2 * size)
    return np.where(index < size, index, 2 * size - 1 - index)


def _rgb(pixels: NDArray[Any], gain: float) -> tuple[NDArray[np.float32], bool]:
    """Float RGB in [0, 255]: scaled, transparent and missing pixels white."""
    values = pixels.astype(np.float32) * np.float32(gain)
    missing = bool(np.isnan(values).any()) if pixels.dtype.kind == "f" else False
    if missing:
        values = np.where(np.isnan(values).any(axis=0), np.float32(255), values)
    if values.shape[0] == 4:
        alpha = values[3] / 255
        values = values[:3] * alpha + 255 * (1 - alpha)
    return np.clip(values, 0, 255), missing


def _gain(levels: Sequence[Level], image_key: str) -> float:
    """Factor that brings pixel values to [0, 255].

    uint8 stays. Other integers are read as 8, 12 or 16 bits, the fewest that hold the coarsest level's maximum;
    floats as [0, 1] or [0, 255].
    """
    coarsest = levels[-1].pixels
    dtype = np.dtype(coarsest.dtype)
    if dtype == np.uint8:
        return 1.0
    values = np.asarray(coarsest)
    known = values[~np.isnan(values)] if dtype.kind == "f" else values
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    tops = (1.0, 255.0) if dtype.kind == "f" else (255.0, 4095.0, 65535.0)
    top = next((top for top in tops if high <= top * 1.001), None)
    if top is None or low < 0:
        check.pixel_range(dtype, low, high, image_key)
    return 255.0 / top
