"""Levels of slide files as arrays, whose file is opened where and when it is read. Nothing here knows of a format."""

from __future__ import annotations

import os
import weakref
from dataclasses import dataclass
from itertools import pairwise
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from .._chunks import FileArray
from .images import halve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

BLOCK_PX = 1024
"""Approximate side of the blocks that are decoded at once where a level is read as a whole."""
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
    """One plane of an array whose ``axes`` are not ``(c, y, x)``; axes other than c, y and x have length 1."""

    def __init__(self, array: Any, axes: Sequence[str]) -> None:
        shape, chunks = dict(zip(axes, array.shape, strict=True)), dict(zip(axes, array.chunks, strict=True))
        (n_channels, *size), (c, *chunk) = ((of.get("c", 1), of["y"], of["x"]) for of in (shape, chunks))
        super().__init__((n_channels, size[0], size[1]), array.dtype, (c, chunk[0], chunk[1]))
        self._array, self._axes = array, tuple(axes)

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode a range of rows and columns."""
        wanted = {"c": slice(None), "y": slice(*y), "x": slice(*x)}
        part = np.asarray(self._array[tuple(wanted.get(axis, 0) for axis in self._axes)])
        kept = [axis for axis in self._axes if axis in wanted]
        if "c" not in kept:
            part, kept = part[None], ["c", *kept]
        return part.transpose([kept.index(axis) for axis in wanted])


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


def _split_range(span: tuple[int, int], step: int) -> list[tuple[int, int]]:
    """A range, cut at the multiples of a step."""
    edges = [span[0], *range((span[0] // step + 1) * step, span[1], step), span[1]]
    return list(pairwise(edges)) if span[1] > span[0] else []


def block_size_px(chunk: int) -> int:
    """The multiple of a chunk's length that is closest to `BLOCK_PX`."""
    return chunk * max(1, round(BLOCK_PX / chunk))


def with_coarse_levels(levels: Sequence[Any]) -> tuple[Any, ...]:
    """Levels, and halves of the last one until it is at most `MAX_COARSEST_PX` long and there are two levels.

    SpatialData keeps a pyramid of two levels or more.
    """
    found = list(levels)
    while (max(found[-1].shape[1:]) > MAX_COARSEST_PX or len(found) == 1) and min(found[-1].shape[1:]) > 1:
        found.append(HalvedLevel(found[-1]))
    return tuple(found)
