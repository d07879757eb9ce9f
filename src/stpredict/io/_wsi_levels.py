"""Levels of slide files as arrays, whose file is opened where and when it is read. Nothing here knows of a format."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from itertools import pairwise
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks.training import warn
from .._chunks import FileArray, read_stored
from .images import halve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK_PX = 1024
"""Approximate side of the blocks that are decoded at once where a level is read as a whole."""
WHOLE = 1e-3
"""A recorded factor is a whole number if it differs by less than this share of it."""
MIN_COVERED = 0.75
"""A recorded factor is doubted if the level covers less than this share of the image by it; padding only adds."""
MAX_COARSEST_PX = 4096
"""A pyramid whose coarsest level is longer than this gets coarser ones, and so does one of a single level."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SlideFile:
    """The pixels and the metadata of a slide file."""

    levels: tuple[Any, ...]
    """``(c, y, x)`` pixels of each level, finest first; one numpy array where the file was decoded as a whole."""
    um_per_px: tuple[float, float] | None = None
    """µm per full-resolution pixel along x and y, None where the file does not state it."""
    vendor: str | None = None
    """Maker of the scanner, or the format."""
    objective_power: float | None = None
    """Magnification of the objective."""
    backend: str = ""
    """The library that reads it."""
    factors: tuple[tuple[float, float] | None, ...] = ()
    """Full-resolution pixels per pixel of each level along y and x, None where the file does not record it."""
    orientation: int = 1
    """How the picture is to be turned or mirrored, as the TIFF tag of that name says; 1 is as stored."""
    doubt: str | None = None
    """Why a resolution that the file states is not used."""
    centre_offset_nm: tuple[float, float] | None = None
    """Distance along x and y from the centre of the glass slide to that of the picture, which NDPI records."""


class FileHandle:
    """A file that each process opens itself, when it is first needed; only its path is pickled."""

    def __init__(self, path: Path, open_file: Callable[[Path], Any]) -> None:
        self.path, self._open_file = path, open_file
        self._reset()

    def _reset(self) -> None:
        self.lock = RLock()
        self._file: Any = None
        self._process = os.getpid()

    def get(self) -> Any:
        """The open file, as ``open_file`` returned it."""
        # after a fork another thread may have held the lock, and the position in an open file is shared
        if self._process != os.getpid():
            self._reset()
        with self.lock:
            if self._file is None:
                self._file = self._open_file(self.path)
                weakref.finalize(self, self._file.close)
            return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_open_file": self._open_file}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


class TransposedPlane(FileArray):
    """One plane of an array whose ``axes`` are not ``(c, y, x)``; axes other than c, y and x have length 1.

    Only the first ``n_channels`` channels are read.
    """

    def __init__(self, array: Any, axes: Sequence[str], n_channels: int) -> None:
        shape, chunks = dict(zip(axes, array.shape, strict=True)), dict(zip(axes, array.chunks, strict=True))
        super().__init__(
            (n_channels, shape["y"], shape["x"]), array.dtype, (chunks.get("c", 1), chunks["y"], chunks["x"])
        )
        self._array, self._axes = array, tuple(axes)

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode a range of rows and columns."""
        wanted = {"c": slice(self.shape[0]), "y": slice(*y), "x": slice(*x)}
        part = read_stored(self._array, tuple(wanted.get(axis, 0) for axis in self._axes))
        kept = [axis for axis in self._axes if axis in wanted]
        if "c" not in kept:
            part, kept = part[None], ["c", *kept]
        return part.transpose([kept.index(axis) for axis in wanted])


class FittedLevel(FileArray):
    """A level without what pads it, or with white where it lacks rows or columns, so that its size says its factor."""

    def __init__(self, level: Any, height: int, width: int) -> None:
        super().__init__((level.shape[0], height, width), level.dtype, level.chunks)
        self._level = level

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode a range of rows and columns."""
        part = np.asarray(self._level[:, y[0] : y[1], x[0] : x[1]])
        lacking = y[1] - y[0] - part.shape[1], x[1] - x[0] - part.shape[2]
        white = np.iinfo(self.dtype).max if self.dtype.kind in "iu" else 1
        return np.pad(part, [(0, 0), (0, lacking[0]), (0, lacking[1])], constant_values=white)


class HalvedLevel(FileArray):
    """Truncated means of 2 x 2 pixels of a ``finer`` level, computed whenever they are read."""

    def __init__(self, finer: Any) -> None:
        n_channels, height, width = finer.shape
        chunks = n_channels, block_size_px(finer.chunks[1]), block_size_px(finer.chunks[2])
        super().__init__((n_channels, height // 2, width // 2), finer.dtype, chunks)
        self._finer = finer

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Average a range of rows and columns, a block at a time, so that little of the finer level is in memory."""
        means = np.empty((self.shape[0], y[1] - y[0], x[1] - x[0]), self.dtype)
        for top, bottom in _split_range(y, self.chunks[1]):
            for left, right in _split_range(x, self.chunks[2]):
                fine = np.asarray(self._finer[:, 2 * top : 2 * bottom, 2 * left : 2 * right])
                means[:, top - y[0] : bottom - y[0], left - x[0] : right - x[0]] = _halve_any_type(fine)
        return means


def _halve_any_type(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.dtype == np.uint8:
        return halve(pixels)
    height, width = (side // 2 * 2 for side in pixels.shape[1:])
    cells = pixels[:, :height, :width].reshape(len(pixels), height // 2, 2, width // 2, 2)
    return cells.mean(axis=(2, 4)).astype(pixels.dtype)


def block_means(finer: Any, shape: Sequence[int], y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
    """A range of a coarser level of ``shape`` (height, width), as means of blocks of a finer level."""
    down, right = (max(1, round(fine / coarse)) for fine, coarse in zip(finer.shape[1:], shape, strict=True))
    height, width = y[1] - y[0], x[1] - x[0]
    part = np.asarray(finer[:, y[0] * down : y[1] * down, x[0] * right : x[1] * right])
    lacking = height * down - part.shape[1], width * right - part.shape[2]
    whole = np.pad(part, [(0, 0), (0, lacking[0]), (0, lacking[1])], mode="edge")
    cells = whole.reshape(len(part), height, down, width, right)
    return cells.mean(axis=(2, 4)).astype(part.dtype)


def _split_range(span: tuple[int, int], step: int) -> list[tuple[int, int]]:
    """A range, cut at the multiples of a step."""
    edges = [span[0], *range((span[0] // step + 1) * step, span[1], step), span[1]]
    return list(pairwise(edges)) if span[1] > span[0] else []


def block_size_px(chunk: int) -> int:
    """The multiple of a chunk's length that is closest to `BLOCK_PX`."""
    return chunk * max(1, round(BLOCK_PX / chunk))


def consistent_levels(file: SlideFile, name: str) -> tuple[Any, ...]:
    """Levels whose sizes say their factors: fitted to a recorded factor; without one, those that fit along x and y."""
    full, kept, dropped = file.levels[0].shape[1:], [file.levels[0]], []
    for i, level in enumerate(file.levels[1:], 1):
        size = level.shape[1:]
        recorded = file.factors[i] if i < len(file.factors) else None
        expected = None if recorded is None else _sizes(full, recorded)
        if expected is not None and min(size[0] / expected[0], size[1] / expected[1]) > MIN_COVERED:
            kept.append(level if expected == size else FittedLevel(level, *expected))
        elif _same_factor(full, size):
            kept.append(level)
        else:
            dropped.append(f"{i} ({size[1]} x {size[0]} px: {full[1] / size[1]:.4g} and {full[0] / size[0]:.4g})")
    if dropped:
        warn(
            f"Levels of '{name}' are left out, since one of their pixels is not as many pixels of the full resolution "
            f"along x as along y: {', '.join(dropped)}. They are computed from finer levels where they are needed."
        )
    return tuple(kept)


def _sizes(full: Sequence[int], factors: tuple[float, float]) -> tuple[int, int]:
    """Height and width of a level that has exactly these factors."""
    whole = [abs(factor - round(factor)) < WHOLE * factor for factor in factors]
    found = [
        max(1, n // round(factor) if exact else round(n / factor))
        for n, factor, exact in zip(full, factors, whole, strict=True)
    ]
    return found[0], found[1]


def _same_factor(full: Sequence[int], size: Sequence[int]) -> bool:
    """Whether the factors along y and x are equal, if each side may be off by a pixel of the level."""
    low, high = ([n / max(side + one, 0.5) for n, side in zip(full, size, strict=True)] for one in (1, -1))
    return max(low) <= min(high)


def with_coarse_levels(levels: Sequence[Any]) -> tuple[Any, ...]:
    """Levels, and halves of the last one until it is at most `MAX_COARSEST_PX` long and there are two levels.

    SpatialData keeps a pyramid of two levels or more.
    """
    found = list(levels)
    while (max(found[-1].shape[1:]) > MAX_COARSEST_PX or len(found) == 1) and min(found[-1].shape[1:]) > 1:
        found.append(HalvedLevel(found[-1]))
    return tuple(found)
