"""Cut patches out of an image pyramid: uint8 RGB. No torch.

Windows are area-averaged from the nearest finer level. Nothing here knows of tables or SpatialData; `_chunks` holds
decoded pixels, `_resample` averages them.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ._chunks import Chunks
from ._processes import is_worker
from ._rgb import rgb_converter

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from ._geometry import PatchSpec
    from ._slides.levels import Level

PATCH_VERSION: int = 1
"""Version of how patches are cut; raised whenever their bytes change for the same image and spots.

It enters the fingerprints of runs, stores, benchmarks and cohorts, so that results of two versions never mix.
"""
CELL_PX = 2048
"""Windows whose centres share a square of this many full-resolution pixels are cut from the same canvas."""
STRIP_BYTES = 1 << 28
"""Budget for decoded pixels where a level is read from top to bottom."""
SAMPLE_PX = 64
"""Side of the area that is compared between levels, to detect which edge of an odd image a level lacks."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Scale:
    """Geometry of the patches of one scale."""

    level: int
    """Position among the levels."""
    origin: NDArray[np.float64]
    """``(2,)`` full-resolution y and x where the level begins."""
    factor: NDArray[np.float64]
    """``(2,)`` full-resolution pixels a level pixel along y and x."""
    step: NDArray[np.float64]
    """``(2, 2)`` movement in level pixels, (y, x) in rows, for one patch pixel down and one to the right."""
    transposed: bool
    """Whether rows of the patch run along columns of the image."""
    aligned: bool
    """Whether the patch lies along rows and columns of the image, within half a pixel from edge to edge."""

    @property
    def is_copy(self) -> bool:
        """Whether patch pixels are level pixels."""
        return self.aligned and bool((np.abs(self.steps) == 1).all())

    @property
    def steps(self) -> NDArray[np.float64]:
        """``(2,)`` signed level pixels a patch pixel along the image's y and x, of an aligned patch."""
        return self.step[[0, 1], [1, 0]] if self.transposed else self.step[[0, 1], [0, 1]]


class PatchReader:
    """Reads the patches of many spots of one image.

    For each scale the nearest finer pyramid level is averaged to ``patch.size_px``. Where patch pixels are as large as
    those of the level, the window is moved to the nearest whole pixel, so that nothing is blurred. Chunks of the image
    are decoded once, as long as the budget holds those that neighbouring windows share and windows come in the order
    of `order`. It can be sent to worker processes, by fork or otherwise, without its cache.

    ``axes`` ``(2, 2)`` are the directions in the image along which patches run to the right and downwards, in columns.
    Flips and quarter turns move pixels without changing them; other rotations and shears take the mean of bilinear
    samples. ``n_threads`` is by default one for each core, and one in a worker process.
    ``chunks`` are those of another reader of the same image, so that each chunk is decoded once for both.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        um_per_px: float,
        patch: PatchSpec,
        *,
        axes: NDArray[np.float64] | None = None,
        budget_bytes: int = 1 << 30,
        image_key: str = "",
        n_threads: int | None = None,
        chunks: Chunks | None = None,
    ) -> None:
        self.patch, self._axes = patch, np.eye(2) if axes is None else axes
        self.sides_px = np.asarray(patch.fov_um) / um_per_px
        self._size_px = np.asarray(levels[0].pixels.shape[:0:-1])
        size = patch.size_px
        chosen = [best_level(levels, side / size) for side in self.sides_px]
        convert = rgb_converter(levels, image_key)
        self.chunks = chunks or Chunks([level.pixels for level in levels], convert, budget_bytes)
        self.levels = _with_offsets(levels[: max(chosen) + 1], self.chunks)
        self._scales = [
            _scale(self.levels[level], level, self._axes * side / size, size)
            for side, level in zip(self.sides_px, chosen, strict=True)
        ]
        self._n_threads, self._process = n_threads, os.getpid()

    def read(self, xy_px: NDArray[np.float64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Patches ``(n, n_scales, 3, p, p)`` around centres ``(n, 2)`` in full-resolution pixels; which are incomplete.

        A window is incomplete where it leaves the image or holds missing (NaN) pixels, which are filled.
        """
        if self._process != os.getpid():  # forked: another thread may have held the lock
            self.chunks.clear()
            self._process = os.getpid()
        size, n_scales = self.patch.size_px, len(self._scales)
        patches = np.empty((len(xy_px), n_scales, 3, size, size), np.uint8)
        missing = np.zeros((len(xy_px), n_scales), bool)
        order = self.order(xy_px)
        cells = xy_px[order] // CELL_PX
        groups = np.split(order, np.flatnonzero((np.diff(cells, axis=0) != 0).any(axis=1)) + 1) if len(order) else []
        n_threads = self._n_threads or (1 if is_worker() else os.cpu_count() or 1)
        tasks = zip(*product(groups, range(n_scales)), strict=True) if groups else ((), ())
        cut = partial(self._cut, xy_px, patches, missing)
        if n_threads > 1:
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(cut, *tasks))
        else:
            list(map(cut, *tasks))
        return patches, self._exceeds_image(xy_px) | missing.any(axis=1)

    def order(self, xy_px: NDArray[np.float64]) -> NDArray[np.intp]:
        """``(n,)`` positions of the centres in the order of `visiting_order`."""
        return visiting_order(xy_px, float(self.sides_px.max()), self.chunks.budget_bytes)

    def _exceeds_image(self, xy_px: NDArray[np.float64]) -> NDArray[np.bool_]:
        half = self.sides_px.max() / 2 * np.abs(self._axes).sum(axis=1)
        outside: NDArray[np.bool_] = ((xy_px < half - 1e-6) | (xy_px > self._size_px - half + 1e-6)).any(axis=1)
        return outside

    def _cut(
        self,
        xy_px: NDArray[np.float64],
        patches: NDArray[np.uint8],
        missing: NDArray[np.bool_],
        rows: NDArray[np.intp],
        s: int,
    ) -> None:
        """Cut the patches of neighbouring windows at one scale."""
        scale, size = self._scales[s], self.patch.size_px
        centre = (xy_px[rows, ::-1] - scale.origin) / scale.factor
        half = np.abs(scale.step).sum(axis=1) * size / 2
        start = np.round(centre - half, 6)
        if scale.is_copy:
            start = np.floor(start + 0.5)
        low = np.floor(start).astype(np.intp) - 2 * (not scale.aligned)
        high = np.floor(start + 2 * half).astype(np.intp) + 4  # taps without weight, or neighbours of samples
        canvas, gone = self._canvas(scale.level, low, high)
        corner = low.min(axis=0)
        if scale.is_copy:
            for i, (y, x) in zip(rows, low - corner, strict=True):
                patches[i, s] = canvas[:, y : y + size, x : x + size]
        else:
            from . import _resample  # numba costs half a second

            if scale.aligned:
                _resample.area_average(canvas, start - corner, np.abs(scale.steps), rows, s, patches)
            else:
                _resample.bilinear(canvas, centre - corner, scale.step, rows, s, patches)
        if scale.aligned:
            _orient(patches, rows, s, scale)
        if gone is not None:
            boxes = zip(np.floor(start) - corner, np.ceil(np.round(start + 2 * half, 6)) - corner, strict=True)
            missing[rows, s] = [gone[_box(*box)].any() for box in boxes]

    def _canvas(
        self, level: int, low: NDArray[np.intp], high: NDArray[np.intp]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Pixels of the box around windows; what lies beyond the level is filled."""
        size = np.asarray(self.chunks.sources[level].shape[1:])
        spans = zip(low.min(axis=0).tolist(), high.max(axis=0).tolist(), size.tolist(), strict=True)
        (y, rows), (x, columns) = (_source_indices(*span, self.patch.fill) for span in spans)
        low, high = low.clip(0, size), high.clip(0, size)
        if self.patch.fill == "reflect":  # mirrored pixels are needed too
            low, high = low.clip(None, [y[0], x[0]]), high.clip([y[1], x[1]], None)
        pixels, missing = self.chunks.read_blocks(level, y, x, self.chunks.blocks_of(level, low, high))
        if rows is None and columns is None:
            return pixels, missing
        gone = None if missing is None else _gather_padded(missing[None], rows, columns, fill=0)[0]
        return _gather_padded(pixels, rows, columns, fill=255), gone


def visiting_order(xy_px: NDArray[np.float64], side_px: float, budget_bytes: int) -> NDArray[np.intp]:
    """Order ``(n,)`` in which windows around ``xy_px`` are read, so that each part of the image is decoded once.

    Square cells, row by row; where a row of blocks is too wide for the budget, in strips.
    """
    strip = max(CELL_PX, budget_bytes / 2 / (3 * (side_px + 2 * CELL_PX)) // CELL_PX * CELL_PX)
    x, y = xy_px.T // CELL_PX
    return np.lexsort((x, y, xy_px[:, 0] // strip))


def _box(low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[slice, slice]:
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def best_level(levels: Sequence[Level], ratio: float) -> int:
    """Index of the coarsest level with at most ``ratio`` full-resolution pixels a pixel; else of the finest."""
    fine = [i for i, level in enumerate(levels) if max(level.factor) <= ratio * (1 + 1e-6)]
    return max(fine, key=lambda i: max(levels[i].factor)) if fine else 0


def rgb_strips(
    levels: Sequence[Level], position: int, n_rows: int, image_key: str
) -> tuple[Level, Iterator[NDArray[np.uint8]]]:
    """A level with its true offset, and its pixels in strips ``(3, n_rows, width)`` uint8 from top to bottom.

    Transparent and missing pixels are white.
    """
    convert = rgb_converter(levels, image_key)
    chunks = Chunks([level.pixels for level in levels], convert, STRIP_BYTES)
    level = _with_offsets(levels[: position + 1], chunks)[position]
    height, width = level.pixels.shape[1:]
    boxes = ((np.array([y, 0]), np.array([min(y + n_rows, height), width])) for y in range(0, height, n_rows))
    return level, (chunks.read(position, *box) for box in boxes)


def _scale(level: Level, position: int, axes: NDArray[np.float64], size: int) -> _Scale:
    """Geometry of a scale, from the movement in full-resolution pixels, (x, y) in rows, for a patch pixel."""
    factor = np.asarray(level.factor)
    step = np.round(axes[::-1, ::-1] / factor[:, None], 9)
    extent = np.abs(step) * size > 0.5  # over half a pixel from edge to edge
    aligned, transposed = not (extent[0, 1] or extent[1, 0]), not (extent[0, 0] or extent[1, 1])
    if aligned or transposed:
        step = np.where(np.eye(2, dtype=bool) ^ transposed, step, 0)
    return _Scale(
        level=position,
        origin=np.asarray(level.offset),
        factor=factor,
        step=step,
        transposed=transposed,
        aligned=aligned or transposed,
    )


def _orient(patches: NDArray[np.uint8], rows: NDArray[np.intp], s: int, scale: _Scale) -> None:
    """Flip and transpose patches that were cut along the image's rows and columns."""
    down, right = scale.steps
    if down > 0 and right > 0 and not scale.transposed:
        return
    flipped = patches[rows, s, :, :: int(np.sign(down)), :: int(np.sign(right))]
    patches[rows, s] = flipped.swapaxes(-1, -2) if scale.transposed else flipped


def _source_indices(low: int, high: int, size: int, fill: str) -> tuple[tuple[int, int], NDArray[np.intp] | None]:
    """The part of a range within the level; and, if that is not all, the pixel of each position, -1 for none."""
    if low >= 0 and high <= size:
        return (low, high), None
    index = np.arange(low, high)
    if fill == "reflect":  # mirrored at both edges, as often as it takes
        index = np.mod(index, 2 * size)
        index = np.where(index < size, index, 2 * size - 1 - index)
    inside = index[(index >= 0) & (index < size)]
    first, last = (int(inside.min()), int(inside.max()) + 1) if len(inside) else (0, 0)
    return (first, last), np.where((index >= 0) & (index < size), index - first, -1)


def _gather_padded(
    pixels: NDArray[Any], rows: NDArray[np.intp] | None, columns: NDArray[np.intp] | None, *, fill: int
) -> NDArray[Any]:
    """Pixels ``(c, y, x)`` at rows and columns; positions of -1 get the value ``fill``."""
    rows = np.arange(pixels.shape[1]) if rows is None else rows
    columns = np.arange(pixels.shape[2]) if columns is None else columns
    filled = np.full((len(pixels), len(rows), len(columns)), fill, pixels.dtype)
    known_rows, known_columns = rows >= 0, columns >= 0
    filled[np.ix_(range(len(pixels)), known_rows, known_columns)] = pixels[:, rows[known_rows]][
        :, :, columns[known_columns]
    ]
    return filled


def _with_offsets(levels: Sequence[Level], chunks: Chunks) -> list[Level]:
    """Levels with their offsets: where odd rows or columns were dropped, pixels decide on which side.

    The side is taken on which the means of the next finer level are closer to the pixels. Where the middle of the
    image is empty, the last rows and columns are assumed to be missing.
    """
    aligned = [levels[0]]
    for i, level in enumerate(levels[1:], 1):
        finer = aligned[-1]
        left = np.asarray(finer.pixels.shape[1:]) * finer.factor - np.asarray(level.pixels.shape[1:]) * level.factor
        sides = product(*((0.0, float(rest)) if rest >= 1 else (0.0,) for rest in left))
        tried = [replace(level, offset=(finer.offset[0] + y, finer.offset[1] + x)) for y, x in sides]
        aligned.append(min(tried, key=partial(_mismatch, chunks, i, finer)) if len(tried) > 1 else tried[0])
    return aligned


def _mismatch(chunks: Chunks, i: int, finer: Level, level: Level) -> float:
    """Mean squared difference between level ``i`` and the means of the finer one, in the middle of the image."""
    size = np.asarray(level.pixels.shape[1:])
    ratio = np.rint(np.asarray(level.factor) / finer.factor).astype(int)
    low = np.maximum(size // 2 - SAMPLE_PX // 2, 1)
    high = np.maximum(np.minimum(size // 2 + SAMPLE_PX // 2, size - 1), low)
    start = np.rint((np.asarray(level.offset) + low * level.factor - finer.offset) / finer.factor).astype(int)
    stop = start + (high - low) * ratio
    if (stop > finer.pixels.shape[1:]).any() or (high == low).any():
        return 0.0
    here, there = (chunks.read(k, *box).astype(np.float32) for k, box in ((i, (low, high)), (i - 1, (start, stop))))
    means = there.reshape(3, high[0] - low[0], ratio[0], high[1] - low[1], ratio[1]).mean(axis=(2, 4))
    return float(((means - here) ** 2).mean())
