"""A cache of decoded pixels of the levels of one image, within a budget of memory.

Levels may be numpy, zarr, dask, files that decode slices (`FileArray`) or anything else that can be sliced. Nothing
here knows of windows or patches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from functools import cached_property
from importlib.util import find_spec
from itertools import pairwise, product
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from ._checks.decoding import DECODER_ERRORS, UnreadableFileError, compute_pixels, describe
from ._processes import is_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    Key = tuple[int, int, int]
    Rectangle = tuple[int, range, range]
    Block = tuple[NDArray[np.uint8], NDArray[np.bool_] | None]
    Convert = Callable[[NDArray[Any]], tuple[NDArray[np.uint8], NDArray[np.bool_] | None]]

MIN_BLOCK_PX = 512
"""Smaller chunks are read several at a time."""
DEFAULT_BLOCK_PX = 1024
"""Side of the blocks in which pixels without chunks (numpy) are read."""
ZARRS = "zarrs.ZarrsCodecPipeline"
SETTING_LOCK = Lock()


class FileArray(ABC):
    """Pixels ``(c, y, x)`` of a file that are decoded when they are sliced, by several threads at a time.

    Pickled, it holds the path of the file, which another process opens again. ``chunks`` are the channels, rows and
    columns that the file decodes at once.
    """

    ndim = 3

    def __init__(self, shape: tuple[int, int, int], dtype: Any, chunks: tuple[int, int, int]) -> None:
        self.shape, self.dtype, self.chunks = shape, np.dtype(dtype), chunks

    @abstractmethod
    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode rows ``y`` and columns ``x``, each first and one after the last, as ``(c, h, w)``."""

    def __getitem__(self, index: Any) -> NDArray[Any]:
        index = index if isinstance(index, tuple) else (index,)
        channels, ys, xs = (*index, slice(None), slice(None))[: self.ndim]
        (y, rows), (x, columns) = _span(ys, self.shape[1]), _span(xs, self.shape[2])
        part: NDArray[Any] = self.read(y, x)[channels]
        return part[..., rows, :][..., columns]


def _span(index: slice | int, length: int) -> tuple[tuple[int, int], slice | int]:
    """The range that an index along one axis needs, and the index within it."""
    if not isinstance(index, slice):
        first = int(index) % length
        return (first, first + 1), 0
    wanted = range(length)[index]
    if not wanted:
        return (0, 0), slice(None)
    return (min(wanted), max(wanted) + 1), slice(None, None, wanted.step)


def read_stored(array: Any, index: tuple[Any, ...]) -> NDArray[Any]:
    """Decode a part of a zarr array; an error names its store, the array and the chunk."""
    try:
        return np.asarray(array[index])
    except DECODER_ERRORS as reason:
        place = getattr(array.store, "root", array.store)
        msg = (
            f"Array '{array.path}' of the store '{place}' cannot be read: {_find_damaged_chunk(array, index)}"
            f"{describe(reason)}. Bytes are missing or wrong: copy or fetch the store again."
        )
        raise UnreadableFileError(msg) from reason


def _find_damaged_chunk(array: Any, index: tuple[Any, ...]) -> str:
    """The first chunk in a part of an array that cannot be decoded, as words of a message."""
    spans = [_span(one, length)[0] for one, length in zip(index, array.shape, strict=False)]
    edges = [range(first // size, -(-last // size)) for (first, last), size in zip(spans, array.chunks, strict=False)]
    for chunk in product(*edges):
        box = tuple(slice(i * size, (i + 1) * size) for i, size in zip(chunk, array.chunks, strict=False))
        try:
            array[box]
        except DECODER_ERRORS:
            return f"chunk {'/'.join(map(str, chunk))}: "
    return ""


class StoredLevel(FileArray):
    """A level ``(c, y, x)`` in a zarr array, decoded by `zarrs` where that is installed and the disk is local.

    The threads of `zarrs` do not survive a fork: in worker processes zarr decodes by itself.
    """

    def __init__(self, array: Any) -> None:
        super().__init__(array.shape, array.dtype, array.chunks)
        self.array = array

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode a range of rows and columns."""
        return read_stored(self.array if is_worker() else self._fast, (slice(None), slice(*y), slice(*x)))

    @cached_property
    def _fast(self) -> Any:
        import zarr

        if not find_spec("zarrs") or not isinstance(self.array.store, zarr.storage.LocalStore):
            return self.array
        # the setting is one for all threads, and the threads of dask may open arrays at the same time
        with SETTING_LOCK, zarr.config.set({"codec_pipeline.path": ZARRS}):
            return zarr.open_array(self.array.store, path=self.array.path, mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_fast"}


class Source:
    """One stored level ``(c, y, x)``: numpy, zarr, dask, or a DataArray of one of them, and the edges of its blocks."""

    def __init__(self, pixels: Any) -> None:
        data = pixels.data if getattr(pixels, "chunks", None) is not None and hasattr(pixels, "dims") else pixels
        data = _without_dask(data)
        self.pixels = StoredLevel(data) if hasattr(data, "store_path") else data
        self.shape: tuple[int, int, int] = self.pixels.shape
        self.edges = tuple(_edges(self.pixels, axis) for axis in (1, 2))

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode rows ``y`` and columns ``x``, each first and one after the last, as ``(c, h, w)``."""
        part: Any = self.pixels[:, slice(*y), slice(*x)]
        if not hasattr(part, "dask"):
            return np.asarray(part)
        # dask's threads do not survive a fork
        return compute_pixels(part, f"rows {y[0]} to {y[1]}, columns {x[0]} to {x[1]}", alone=is_worker())


def _without_dask(data: Any) -> Any:
    """The zarr array or file behind a dask array that only wraps it: it is read faster without dask."""
    layers = getattr(getattr(data, "dask", None), "layers", {})
    alone = [next(iter(layer.values())) for layer in layers.values() if len(layer) == 1]
    stored = [value for value in alone if hasattr(value, "store_path") or isinstance(value, FileArray)]
    same = len(layers) == 2 and len(stored) == 1 and (stored[0].shape, stored[0].dtype) == (data.shape, data.dtype)
    return stored[0] if same else data


def _edges(pixels: Any, axis: int) -> list[int]:
    """Start of each block along an axis, and the end: blocks are chunks, or several small ones."""
    length, chunks = pixels.shape[axis], getattr(pixels, "chunks", None)
    if chunks is None:
        return [*range(0, length, DEFAULT_BLOCK_PX), length]
    sizes = chunks[axis]
    starts = range(0, length, sizes) if isinstance(sizes, int) else np.cumsum([0, *sizes[:-1]]).tolist()
    edges = [0]
    for start in starts:
        if start - edges[-1] >= MIN_BLOCK_PX:
            edges.append(start)
    return [*edges, length]


class Chunks:
    """LRU cache of blocks of several levels as 8-bit RGB.

    Threads may ask at the same time. One decodes at a time, since zarr and dask use several threads for that.
    ``convert`` turns raw pixels into ``(3, h, w)`` uint8 and, where any pixel is missing, ``(h, w)`` which. Blocks that
    are decoded together stay where they are decoded and are dropped together; those of the last call are held even
    beyond the budget.
    """

    def __init__(self, levels: Sequence[Any], convert: Convert, budget_bytes: int) -> None:
        self.sources = [Source(pixels) for pixels in levels]
        self.budget_bytes, self._convert = budget_bytes, convert
        self.clear()

    def clear(self) -> None:
        """Empty the cache, and replace the lock, which a thread may have held when the process was forked."""
        for source in self.sources:
            if isinstance(source.pixels, StoredLevel):
                source.pixels.__dict__.pop("_fast", None)
        self._cached: dict[Key, tuple[Rectangle, Block]] = {}
        self._rectangles: OrderedDict[Rectangle, int] = OrderedDict()  # to their bytes, used longest ago first
        self._cached_bytes = 0
        self._lock = Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_cached", "_rectangles", "_cached_bytes", "_lock")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.clear()

    def blocks_of(self, level: int, low: NDArray[np.intp], high: NDArray[np.intp]) -> list[tuple[int, int]]:
        """Blocks (row, column), ascending, that boxes touch, whose ends ``low`` and ``high`` are ``(n, 2)`` y and x."""
        spans = []
        for axis, edges in enumerate(self.sources[level].edges):
            spans += [np.searchsorted(edges, low[:, axis], "right") - 1, np.searchsorted(edges, high[:, axis], "left")]
        boxes = set(zip(*(span.tolist() for span in spans), strict=True))
        return sorted({block for a, b, c, d in boxes for block in product(range(a, b), range(c, d))})

    def read(self, level: int, low: NDArray[np.intp], high: NDArray[np.intp]) -> NDArray[np.uint8]:
        """All pixels ``(3, h, w)`` of the box from ``low`` to ``high``, y and x."""
        y, x = ((int(first), int(last)) for first, last in zip(low, high, strict=True))
        return self.read_blocks(level, y, x, self.blocks_of(level, low[None], high[None]))[0]

    def read_blocks(
        self, level: int, y: tuple[int, int], x: tuple[int, int], blocks: Iterable[tuple[int, int]]
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Pixels ``(3, h, w)`` of a range, and ``(h, w)`` which are missing, None where none is.

        Only the given blocks (row, column) are defined.
        """
        ys, xs = self.sources[level].edges
        canvas, missing = np.empty((3, y[1] - y[0], x[1] - x[0]), np.uint8), None
        for (_, by, bx), (pixels, gone) in self._blocks([(level, *block) for block in blocks]).items():
            rows, from_rows = overlap(y, ys[by], ys[by + 1])
            columns, from_columns = overlap(x, xs[bx], xs[bx + 1])
            canvas[:, rows, columns] = pixels[:, from_rows, from_columns]
            if gone is not None:
                missing = np.zeros(canvas.shape[1:], bool) if missing is None else missing
                missing[rows, columns] = gone[from_rows, from_columns]
        return canvas, missing

    def _blocks(self, keys: Sequence[Key]) -> dict[Key, Block]:
        with self._lock:
            for rectangle in _rectangles([key for key in keys if key not in self._cached]):
                self._decode(rectangle)
            found = {key: self._cached[key] for key in keys}
            used = {rectangle for rectangle, _ in found.values()}
            for rectangle in used:
                self._rectangles.move_to_end(rectangle)
            while self._cached_bytes > self.budget_bytes and len(self._rectangles) > len(used):
                self._drop_oldest()
        return {key: block for key, (_, block) in found.items()}

    def _drop_oldest(self) -> None:
        (level, ys, xs), n_bytes = self._rectangles.popitem(last=False)
        self._cached_bytes -= n_bytes
        for by, bx in product(ys, xs):
            del self._cached[level, by, bx]

    def _decode(self, rectangle: Rectangle) -> None:
        """Decode a rectangle of blocks at once into the cache."""
        level, ys, xs = rectangle
        source = self.sources[level]
        rows = [source.edges[0][i] for i in (*ys, ys.stop)]
        columns = [source.edges[1][i] for i in (*xs, xs.stop)]
        pixels, missing = self._convert(source.read((rows[0], rows[-1]), (columns[0], columns[-1])))
        pixels = np.ascontiguousarray(pixels)
        for by, (top, bottom) in zip(ys, pairwise(rows), strict=True):
            for bx, (left, right) in zip(xs, pairwise(columns), strict=True):
                part = np.s_[top - rows[0] : bottom - rows[0], left - columns[0] : right - columns[0]]
                block = (pixels[:, *part], None if missing is None else missing[part])
                self._cached[level, by, bx] = (rectangle, block)
        self._rectangles[rectangle] = pixels.nbytes
        self._cached_bytes += pixels.nbytes


def overlap(span: tuple[int, int], low: int, high: int) -> tuple[slice, slice]:
    """The part of a block within a range: as a slice of the range, and as one of the block."""
    start, stop = max(span[0], low), min(span[1], high)
    return slice(start - span[0], stop - span[0]), slice(start - low, stop - low)


def _rectangles(keys: Sequence[Key]) -> list[Rectangle]:
    """Gather blocks of one level into rectangles, which are decoded with one call each."""
    rows: dict[int, list[int]] = {}
    for _, by, bx in keys:
        rows.setdefault(by, []).append(bx)
    found: dict[tuple[range, int], range] = {}  # columns and the row after the last, to rows
    for by, columns in rows.items():
        for run in _ranges(columns):
            above = found.pop((run, by), range(by, by))
            found[run, by + 1] = range(above.start, by + 1)
    return [(keys[0][0], ys, xs) for (xs, _), ys in found.items()]


def _ranges(columns: Sequence[int]) -> list[range]:
    """Ascending numbers as ranges without gaps."""
    ranges: list[range] = []
    for column in columns:
        if ranges and ranges[-1].stop == column:
            ranges[-1] = range(ranges[-1].start, column + 1)
        else:
            ranges.append(range(column, column + 1))
    return ranges
