"""Levels of slide files as arrays that are opened where and when they are read. Nothing here knows of a format."""

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
"""Side of what is decoded at once where a level is read as a whole, about."""
OVERVIEW_PX = 4096
"""A pyramid whose coarsest level is longer than this gets coarser ones, and so does one of a single level."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SlideFile:
    """What a file says of itself."""

    levels: tuple[Any, ...]
    """``(c, y, x)`` pixels of each level, finest first; one numpy array where the file was decoded as a whole."""
    um_per_px: tuple[float, float] | None = None
    """µm per full-resolution pixel along x and y, None where the file does not say so."""
    vendor: str | None = None
    """Who made the scanner, or the format."""
    objective_power: float | None = None
    """Magnification of the objective."""
    backend: str = ""
    """What reads it."""


class Handle:
    """A file that is opened when it is first asked for, once in each process; others are sent its path.

    Parameters
    ----------
    path
        Where it is.
    opened
        Opens it; what it returns has ``close``.
    """

    def __init__(self, path: Path, opened: Callable[[Path], Any]) -> None:
        self.path, self._opened = path, opened
        self._forget()

    def _forget(self) -> None:
        self.lock = RLock()
        self._file: Any = None
        self._process = os.getpid()

    def get(self) -> Any:
        """The open file.

        Returns
        -------
        What `opened` returned.
        """
        if (
            self._process != os.getpid()
        ):  # forked: another thread may have held the lock, and places in files are shared
            self._forget()
        with self.lock:
            if self._file is None:
                self._file = self._opened(self.path)
                weakref.finalize(self, self._file.close)
            return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_opened": self._opened}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()


class Turned(FileArray):
    """One plane of an array whose axes are not ``(c, y, x)``.

    Parameters
    ----------
    array
        Any axes; those that are not among c, y and x have length 1.
    axes
        Their names in lower case.
    """

    def __init__(self, array: Any, axes: Sequence[str]) -> None:
        shape, chunks = dict(zip(axes, array.shape, strict=True)), dict(zip(axes, array.chunks, strict=True))
        super().__init__(_cyx(shape), array.dtype, _cyx(chunks))
        self._array, self._axes = array, tuple(axes)

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode a range.

        Parameters
        ----------
        y, x
            First row or column, and the one after the last.

        Returns
        -------
        ``(c, h, w)``.
        """
        wanted = {"c": slice(None), "y": slice(*y), "x": slice(*x)}
        part = np.asarray(self._array[tuple(wanted.get(axis, 0) for axis in self._axes)])
        kept = [axis for axis in self._axes if axis in wanted]
        if "c" not in kept:
            part, kept = part[None], ["c", *kept]
        return part.transpose([kept.index(axis) for axis in wanted])


def _cyx(sizes: dict[str, int]) -> tuple[int, int, int]:
    return sizes.get("c", 1), sizes["y"], sizes["x"]


class Halved(FileArray):
    """Truncated means of 2 x 2 pixels of a finer level, computed whenever they are read.

    Parameters
    ----------
    finer
        ``(c, y, x)``, sliceable and in chunks.
    """

    def __init__(self, finer: Any) -> None:
        side = block_px(finer.chunks[1]), block_px(finer.chunks[2])
        super().__init__(
            (finer.shape[0], finer.shape[1] // 2, finer.shape[2] // 2), finer.dtype, (finer.shape[0], *side)
        )
        self._finer = finer

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Average a range, a block at a time, so that little of the finer level is held.

        Parameters
        ----------
        y, x
            First row or column, and the one after the last.

        Returns
        -------
        ``(c, h, w)``.
        """
        means = np.empty((self.shape[0], y[1] - y[0], x[1] - x[0]), self.dtype)
        for top, bottom in _steps(y, self.chunks[1]):
            for left, right in _steps(x, self.chunks[2]):
                fine = np.asarray(self._finer[:, 2 * top : 2 * bottom, 2 * left : 2 * right])
                means[:, top - y[0] : bottom - y[0], left - x[0] : right - x[0]] = _halved(fine)
        return means


def _halved(pixels: NDArray[Any]) -> NDArray[Any]:
    if pixels.dtype == np.uint8:
        return halve(pixels)
    height, width = (side // 2 * 2 for side in pixels.shape[1:])
    cells = pixels[:, :height, :width].reshape(len(pixels), height // 2, 2, width // 2, 2)
    return cells.mean(axis=(2, 4)).astype(pixels.dtype)


def _steps(span: tuple[int, int], step: int) -> list[tuple[int, int]]:
    """A range, cut at the multiples of a step."""
    edges = [span[0], *range((span[0] // step + 1) * step, span[1], step), span[1]]
    return list(pairwise(edges)) if span[1] > span[0] else []


def block_px(chunk: int) -> int:
    """How many pixels are decoded at once along an axis: some chunks of the file.

    Parameters
    ----------
    chunk
        Length of a chunk of the file.

    Returns
    -------
    A multiple of it.
    """
    return chunk * max(1, round(BLOCK_PX / chunk))


def with_overview(levels: Sequence[Any]) -> tuple[Any, ...]:
    """Levels, with coarser ones where the coarsest is a large image; and two at least, as SpatialData keeps them.

    Parameters
    ----------
    levels
        ``(c, y, x)`` pixels of each level, finest first.

    Returns
    -------
    The same, and halves of the last one until it is no longer than `OVERVIEW_PX`.
    """
    found = list(levels)
    while (max(found[-1].shape[1:]) > OVERVIEW_PX or len(found) == 1) and min(found[-1].shape[1:]) > 1:
        found.append(Halved(found[-1]))
    return tuple(found)
