"""TIFF slides: tiles are decoded by tifffile without going through zarr, metadata read by tiffslide or from tags."""

from __future__ import annotations

import math
import multiprocessing
import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._checks import wsi as check
from .._chunks import FileArray, overlap
from ._wsi_levels import Handle, SlideFile
from ._wsi_resolution import of_ome_xml, of_tags, sane

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BROKEN: Final = (ValueError, OSError, RuntimeError, LookupError, TypeError, ArithmeticError, struct.error)
"""What tifffile and its codecs raise about files that are damaged or of a kind they do not know."""
JPEG: Final = {6, 7, 34892, 33007}
"""Compressions that need the tables of their page."""
TO_RGB: Final = {6, 7, 34892, 33004, 34712, 50001, 50002}
"""Compressions whose codecs turn YCbCr into RGB: JPEG, JPEG 2000, WebP, JPEG XL."""
APERIO_YCBCR: Final = 33003
"""JPEG 2000 whose YCbCr its codec does not know of."""
AXES: Final = {"YXS", "SYX", "CYX", "YX"}
COLOURS: Final = {"RGB", "YCBCR", "MINISBLACK", "MINISWHITE"}


class TiffLevel(FileArray):
    """One level of a TIFF. Tiles that the file leaves out are white.

    Parameters
    ----------
    handle
        The file.
    series, level
        Which of its pictures, and which level of that.
    pages
        The pages of that level: one, or one a channel.
    """

    def __init__(self, handle: Handle, series: int, level: int, pages: Any) -> None:
        first = pages[0].keyframe
        height, width = first.imagelength, first.imagewidth
        n_channels = max(len(pages), first.samplesperpixel)
        super().__init__((n_channels, height, width), first.dtype, (n_channels, *_tile(first)))
        self._handle, self._series, self._level = handle, series, level

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
        white = np.iinfo(self.dtype).max if self.dtype.kind in "iu" else 1
        out = np.full((self.shape[0], y[1] - y[0], x[1] - x[0]), white, self.dtype)
        try:
            file = self._handle.get()
            with self._handle.lock:
                pages = list(file.series[self._series].levels[self._level].pages)
            for channel, page in enumerate(pages):
                self._paste_all(out[channel:], page, y, x)
        except BROKEN as reason:
            check.unreadable(self._handle.path, reason)
        return out

    def _paste_all(self, out: NDArray[Any], page: Any, y: tuple[int, int], x: tuple[int, int]) -> None:
        wanted = _segments(page.keyframe, y, x)
        with self._handle.lock:
            file, _ = self._handle.get().filehandle, page.keyframe.decode  # computed once, not by threads
            offsets, counts = ([values[i] for i in wanted] for values in (page.dataoffsets, page.databytecounts))
            found = list(file.read_segments(offsets, counts, indices=wanted)) if wanted else []
        paste = partial(_paste, out, page, (y[0], x[0]))
        n_threads = 1 if multiprocessing.parent_process() else min(os.cpu_count() or 1, len(found))
        if n_threads > 1:
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(paste, found))
        else:
            list(map(paste, found))


def _tile(keyframe: Any) -> tuple[int, int]:
    if keyframe.is_tiled:
        return keyframe.tilelength, keyframe.tilewidth
    return min(keyframe.rowsperstrip or keyframe.imagelength, keyframe.imagelength), keyframe.imagewidth


def _segments(keyframe: Any, y: tuple[int, int], x: tuple[int, int]) -> list[int]:
    """Numbers of the tiles or strips that a range touches."""
    height, width = _tile(keyframe)
    down, across = math.ceil(keyframe.imagelength / height), math.ceil(keyframe.imagewidth / width)
    planes = range(keyframe.samplesperpixel if keyframe.planarconfig == 2 else 1)
    rows, columns = range(y[0] // height, math.ceil(y[1] / height)), range(x[0] // width, math.ceil(x[1] / width))
    return [(plane * down + row) * across + column for plane in planes for row in rows for column in columns]


def _paste(out: NDArray[Any], page: Any, corner: tuple[int, int], segment: tuple[bytes | None, int]) -> None:
    """Decode a tile or strip, and lay it where it belongs."""
    keyframe = page.keyframe
    tables = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader} if keyframe.compression in JPEG else {}
    pixels, (plane, _, top, left, _), _ = keyframe.decode(*segment, **tables, _fullsize=keyframe.is_tiled)
    if pixels is None:
        return
    pixels = pixels[0].transpose(2, 0, 1)
    (rows, from_rows), (columns, from_columns) = (
        overlap((0, size), start - origin, start - origin + length)
        for start, origin, length, size in zip((top, left), corner, pixels.shape[1:], out.shape[1:], strict=True)
    )
    out[plane : plane + len(pixels), rows, columns] = pixels[:, from_rows, from_columns]


def open_tiff(path: Path) -> Any:
    """Open a TIFF.

    Parameters
    ----------
    path
        Where it is.

    Returns
    -------
    A ``tifffile.TiffFile``.
    """
    with check.needs("tiffslide"):
        import tiffslide  # noqa: F401  (brings tifffile and its codecs)
        from tifffile import TiffFile
    return TiffFile(path)


def slide_file(path: Path) -> SlideFile | str:
    """What a TIFF holds: the largest picture in colour, and what is said about it.

    Parameters
    ----------
    path
        Where it is.

    Returns
    -------
    The slide, or why it cannot be read this way.
    """
    handle = Handle(path, open_tiff)
    try:
        file = handle.get()
        number = _largest(file)
        series = file.series[number]
        end = max(_next_page(file), *(_end(page) for level in series.levels for page in level.pages))
        facts = _facts(path, file, series)
        levels = [TiffLevel(handle, number, i, list(level.pages)) for i, level in enumerate(series.levels)]
    except BROKEN as reason:
        return str(reason)
    check.whole(path, path.stat().st_size, end)
    check.one_plane(path, series.axes, series.shape, AXES)
    refusal = _refusal(file, series.keyframe)
    return refusal or SlideFile(levels=tuple(levels), backend="tiffslide", **facts)


def _largest(file: Any) -> int:
    """The picture with the most pixels, those in colour first: labels, macros and thumbnails are smaller."""
    pages = [series.keyframe for series in file.series]
    in_colour = [series.shape[series.axes.find("S" if "S" in series.axes else "C")] in {3, 4} for series in file.series]
    sizes = [(colour, page.imagelength * page.imagewidth) for colour, page in zip(in_colour, pages, strict=True)]
    return sizes.index(max(sizes))


def _refusal(file: Any, page: Any) -> str | None:
    """Why tifffile does not give the colours of a slide, or all of it in one piece."""
    colour = page.photometric.name
    if file.is_scn or file.is_bif:
        return "its areas must be put together, which openslide does"
    if colour not in COLOURS or page.compression == APERIO_YCBCR or page.bitspersample not in {8, 16, 32}:
        return f"its pixels are {colour} with {page.bitspersample} bits, compressed as {page.compression.name}"
    if colour == "YCBCR" and page.compression not in TO_RGB:
        return f"its pixels are YCbCr, compressed as {page.compression.name}"
    return None


def _next_page(file: Any) -> int:
    """Where the page after the last one that was found begins: 0, unless the file is cut short."""
    if file.is_ndpi:
        return 0
    layout, last, handle = file.tiff, file.pages[len(file.pages) - 1], file.filehandle
    handle.seek(last.offset)
    (n_tags,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    handle.seek(n_tags * layout.tagsize, 1)
    (offset,) = struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))
    return int(offset)


def _end(page: Any) -> int:
    return max((offset + n for offset, n in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)


def _facts(path: Path, file: Any, series: Any) -> dict[str, Any]:
    """Resolution, vendor and magnification."""
    by_tags = of_tags(series.keyframe.tags)
    if file.is_ome:
        return {"um_per_px": of_ome_xml(file.ome_metadata, series.shape, series.axes) or by_tags, "vendor": "ome"}
    if not (file.is_svs or file.is_ndpi or file.is_philips):
        return {"um_per_px": by_tags, "vendor": "generic-tiff"}
    from tiffslide import TiffSlide

    with warnings.catch_warnings(action="ignore"), TiffSlide(path) as slide:  # it warns that it knows little of NDPI
        said = slide.properties
    power = said.get("tiffslide.objective-power")
    return {
        "um_per_px": sane(said.get("tiffslide.mpp-x"), said.get("tiffslide.mpp-y")),
        "vendor": said.get("tiffslide.vendor"),
        "objective_power": None if power is None else float(power),
    }
