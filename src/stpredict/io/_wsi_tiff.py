"""TIFF slides: tiles are decoded through the pages of tifffile, metadata read by tiffslide or from tags."""

from __future__ import annotations

import math
import os
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._chunks import FileArray, overlap
from .._processes import is_worker
from . import _errors as check
from ._wsi_levels import FileHandle, SlideFile
from ._wsi_resolution import plausible_resolution, resolution_from_ome_xml, resolution_from_tags

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TIFFFILE_ERRORS: Final = (ValueError, OSError, RuntimeError, LookupError, TypeError, ArithmeticError, struct.error)
"""What tifffile and its codecs raise about files that are damaged or of an unknown kind."""
JPEG: Final = {6, 7, 34892, 33007}
"""Compressions that need the tables of their page."""
DECODED_TO_RGB: Final = {6, 7, 34892, 33004, 34712, 50001, 50002}
"""Compressions whose codecs convert YCbCr to RGB: JPEG, JPEG 2000, WebP, JPEG XL."""
APERIO_YCBCR: Final = 33003
"""JPEG 2000 in YCbCr, which its codec does not convert."""
AXES: Final = {"YXS", "SYX", "CYX", "YX"}
COLOURS: Final = {"RGB", "YCBCR", "MINISBLACK", "MINISWHITE"}


class TiffLevel(FileArray):
    """One level of a picture (``series``) of a TIFF; tiles that the file leaves out are white.

    Tiles are decoded by ``page.decode``: through ``aszarr``, patches took 1.5 times as long (slide_files benchmark).
    """

    def __init__(self, handle: FileHandle, series: int, level: int, pages: Any) -> None:
        first = pages[0].keyframe
        n_channels = max(len(pages), first.samplesperpixel)  # a page is a channel, or holds all
        shape = (n_channels, first.imagelength, first.imagewidth)
        super().__init__(shape, first.dtype, (n_channels, *_tile_shape(first)))
        self._handle, self._series, self._level = handle, series, level

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode a range of rows and columns."""
        white = np.iinfo(self.dtype).max if self.dtype.kind in "iu" else 1
        out = np.full((self.shape[0], y[1] - y[0], x[1] - x[0]), white, self.dtype)
        try:
            file = self._handle.get()
            with self._handle.lock:
                pages = list(file.series[self._series].levels[self._level].pages)
            for channel, page in enumerate(pages):
                self._decode_page(out[channel:], page, y, x)
        except TIFFFILE_ERRORS as reason:
            check.damaged(self._handle.path, "slide", reason)
        return out

    def _decode_page(self, out: NDArray[Any], page: Any, y: tuple[int, int], x: tuple[int, int]) -> None:
        indices = _segment_indices(page.keyframe, y, x)
        with self._handle.lock:
            file, _ = self._handle.get().filehandle, page.keyframe.decode  # computed once, not by threads
            offsets, counts = ([values[i] for i in indices] for values in (page.dataoffsets, page.databytecounts))
            segments = list(file.read_segments(offsets, counts, indices=indices)) if indices else []
        decode = partial(_decode_segment, out, page, (y[0], x[0]))
        n_threads = 1 if is_worker() else min(os.cpu_count() or 1, len(segments))
        if n_threads > 1:
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(decode, segments))
        else:
            list(map(decode, segments))


def _tile_shape(keyframe: Any) -> tuple[int, int]:
    """Height and width of a tile or strip."""
    if keyframe.is_tiled:
        return keyframe.tilelength, keyframe.tilewidth
    return min(keyframe.rowsperstrip or keyframe.imagelength, keyframe.imagelength), keyframe.imagewidth


def _segment_indices(keyframe: Any, y: tuple[int, int], x: tuple[int, int]) -> list[int]:
    """Numbers of the tiles or strips that overlap a range."""
    height, width = _tile_shape(keyframe)
    down, across = math.ceil(keyframe.imagelength / height), math.ceil(keyframe.imagewidth / width)
    planes = range(keyframe.samplesperpixel if keyframe.planarconfig == 2 else 1)
    rows, columns = range(y[0] // height, math.ceil(y[1] / height)), range(x[0] // width, math.ceil(x[1] / width))
    return [(plane * down + row) * across + column for plane in planes for row in rows for column in columns]


def _decode_segment(out: NDArray[Any], page: Any, corner: tuple[int, int], segment: tuple[bytes | None, int]) -> None:
    """Decode a tile or strip, and copy it to its place in a range that begins at a corner."""
    keyframe = page.keyframe
    tables = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader} if keyframe.compression in JPEG else {}
    pixels, (plane, _, top, left, _), _ = keyframe.decode(*segment, **tables)
    if pixels is None:
        return
    pixels = pixels[0].transpose(2, 0, 1)
    (rows, from_rows), (columns, from_columns) = (
        overlap((0, size), start - origin, start - origin + length)
        for start, origin, length, size in zip((top, left), corner, pixels.shape[1:], out.shape[1:], strict=True)
    )
    out[plane : plane + len(pixels), rows, columns] = pixels[:, from_rows, from_columns]


def open_slide_file(path: Path) -> SlideFile | str:
    """Open a TIFF: the largest picture in colour and its metadata, or why it cannot be read through tifffile."""
    with check.required_module("tiffslide"):
        import tiffslide  # noqa: F401  (brings tifffile and its codecs)
        from tifffile import TiffFile
    handle = FileHandle(path, TiffFile)
    try:
        file = handle.get()
        number = _largest_picture(file)
        series = file.series[number]
        pages = [page for level in series.levels for page in level.pages]
        ends = [offset + n for page in pages for offset, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        n_needed = max([_next_page(file), *ends])
        metadata = _read_metadata(path, file, series)
        levels = [TiffLevel(handle, number, i, list(level.pages)) for i, level in enumerate(series.levels)]
    except TIFFFILE_ERRORS as reason:
        return str(reason)
    n_bytes = path.stat().st_size
    if n_bytes < n_needed:
        check.damaged(path, "slide", f"it is cut short, with {n_bytes} of at least {n_needed} bytes")
    if series.axes not in AXES:
        check.not_one_plane(path, series.axes, series.shape)
    return _why_unsupported(file, series.keyframe) or SlideFile(levels=tuple(levels), backend="tiffslide", **metadata)


def _largest_picture(file: Any) -> int:
    """Number of the picture with the most pixels, those in colour first: labels, macros and thumbnails are smaller."""
    pages = [series.keyframe for series in file.series]
    in_colour = [series.shape[series.axes.find("S" if "S" in series.axes else "C")] in {3, 4} for series in file.series]
    sizes = [(colour, page.imagelength * page.imagewidth) for colour, page in zip(in_colour, pages, strict=True)]
    return sizes.index(max(sizes))


def _why_unsupported(file: Any, page: Any) -> str | None:
    """Why tifffile does not give the colours of a slide, or all of it in one piece; None if it does."""
    colour = page.photometric.name
    if file.is_scn or file.is_bif:
        return "its areas must be put together, which openslide does"
    if colour not in COLOURS or page.compression == APERIO_YCBCR or page.bitspersample not in {8, 16, 32}:
        return f"its pixels are {colour} with {page.bitspersample} bits, compressed as {page.compression.name}"
    if colour == "YCBCR" and page.compression not in DECODED_TO_RGB:
        return f"its pixels are YCbCr, compressed as {page.compression.name}"
    return None


def _next_page(file: Any) -> int:
    """Offset of a page after the last one that was found: 0, unless the file is truncated."""
    if file.is_ndpi:
        return 0
    file.filehandle.seek(file.pages.next_page_offset)
    (offset,) = struct.unpack(file.tiff.offsetformat, file.filehandle.read(file.tiff.offsetsize))
    return int(offset)


def _read_metadata(path: Path, file: Any, series: Any) -> dict[str, Any]:
    """Resolution, vendor and magnification."""
    from_tags = resolution_from_tags(series.keyframe.tags)
    if file.is_ome:
        from_xml = resolution_from_ome_xml(file.ome_metadata, series.shape, series.axes)
        return {"um_per_px": from_xml or from_tags, "vendor": "ome"}
    if not (file.is_svs or file.is_ndpi or file.is_philips):
        return {"um_per_px": from_tags, "vendor": "generic-tiff"}
    from tiffslide import TiffSlide

    with warnings.catch_warnings(action="ignore"), TiffSlide(path) as slide:  # it warns that it knows little of NDPI
        properties = slide.properties
    power = properties.get("tiffslide.objective-power")
    return {
        "um_per_px": plausible_resolution(properties.get("tiffslide.mpp-x"), properties.get("tiffslide.mpp-y")),
        "vendor": properties.get("tiffslide.vendor"),
        "objective_power": None if power is None else float(power),
    }
