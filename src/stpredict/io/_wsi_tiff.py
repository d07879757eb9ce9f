"""TIFF slides: tiles are decoded through the pages of tifffile, metadata read by tiffslide or from tags."""

from __future__ import annotations

import math
import os
import re
import struct
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from tempfile import TemporaryFile, gettempdir
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._checks.decoding import DECODER_ERRORS, describe
from .._checks.memory import TooLargeError, require_memory
from .._checks.slides import quote
from .._checks.training import warn
from .._chunks import FileArray, overlap
from .._processes import is_worker
from . import _errors as check
from ._wsi_levels import FileHandle, SlideFile, block_means
from ._wsi_resolution import known_pair, number, plausible_resolution, resolution_from_ome_xml, resolution_from_tags
from .images import TO_PYRAMID

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

JPEG: Final = {6, 7, 34892, 33007}
"""Compressions that need the tables of their page."""
DECODED_TO_RGB: Final = {6, 7, 34892, 33004, 34712, 50001, 50002}
"""Compressions whose codecs convert YCbCr to RGB: JPEG, JPEG 2000, WebP, JPEG XL."""
APERIO_YCBCR: Final = 33003
"""JPEG 2000 in YCbCr, which its codec does not convert."""
UNSPECIFIED, PREMULTIPLIED, OPACITY = 0, 1, 2
"""Meaning of a fourth sample by the tag ExtraSamples: none, opacity that colours are multiplied by, or are not."""
LARGE_STRIP_BYTES: Final = 1 << 24
"""Strips that are not compressed are read row by row if they are larger than this."""
MAX_STRIP_BYTES: Final = 1 << 28
"""Compressed strips larger than this are decoded once into a temporary file, and not whenever a part is needed."""
CENTRE_OFFSET_TAGS: Final = (65422, 65423)
"""Tags of NDPI with the distance from the centre of the glass slide in nm, along x and y."""
ROWS: Final = 64
"""Rows that are read at a time from large strips, at least."""
AXES: Final = {"YXS", "SYX", "CYX", "YX"}
COLOURS: Final = {"RGB", "YCBCR", "MINISBLACK", "MINISWHITE"}


class TiffLevel(FileArray):
    """One level of a picture (``series``) of a TIFF; tiles that the file leaves out are white.

    Tiles are decoded by ``page.decode``: through ``aszarr``, patches took 1.5 times as long (slide_files benchmark).
    A fourth sample is kept if it is opacity by the tag ExtraSamples, laid on white if colours are multiplied by it
    already, and else left out. Large strips are read row by row, or are decoded once into a temporary file.
    """

    def __init__(self, handle: FileHandle, series: int, level: int, pages: Any, finer: TiffLevel | None) -> None:
        first = pages[0].keyframe
        _require_sizes(pages)
        self._n_samples = max(len(pages), first.samplesperpixel)  # a page is a channel, or holds all
        self._extra = first.extrasamples[0] if first.extrasamples else UNSPECIFIED
        n_channels = 3 if self._n_samples == 4 and self._extra != OPACITY else self._n_samples
        together = 1 if first.planarconfig == 2 else first.samplesperpixel
        strip_bytes = 0 if first.is_tiled else math.prod(_tile_shape(first)) * together * first.bitspersample // 8
        self._rows = first.compression == 1 and first.predictor == 1 and strip_bytes > LARGE_STRIP_BYTES
        self._spool = not self._rows and strip_bytes > MAX_STRIP_BYTES
        if self._spool:
            size = f"{first.imagewidth:,} x {first.imagelength:,} px in strips that are decoded as a whole"
            n_bytes = 2 * first.imagewidth * first.imagelength * self._n_samples * np.dtype(first.dtype).itemsize
            require_memory(n_bytes, f"Level {level} of '{handle.path.name}' ({size})", TO_PYRAMID)
        height, width = _tile_shape(first)
        chunk = (min(height, ROWS) if self._rows or self._spool else height, width)
        super().__init__((n_channels, first.imagelength, first.imagewidth), first.dtype, (n_channels, *chunk))
        self._handle, self._series, self._level = handle, series, level
        self._finer, self._warned = finer, False
        self._decoded = FileHandle(handle.path, self._decode_into_temporary_file) if self._spool else None

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode a range of rows and columns."""
        if self._decoded is not None:
            stored: NDArray[Any] = self._decoded.get().pixels[:, slice(*y), slice(*x)]
        else:
            stored = self._read_stored(y, x)
        if len(stored) == self.shape[0]:
            return np.asarray(stored)
        if self._extra != PREMULTIPLIED:
            return np.asarray(stored[:3])
        white = self.dtype.type(_white(self.dtype))
        on_white: NDArray[Any] = np.minimum(stored[:3], stored[3]) + (white - stored[3])
        return on_white

    def _read_stored(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:  # (n_samples, h, w)
        out = np.full((self._n_samples, y[1] - y[0], x[1] - x[0]), _white(self.dtype), self.dtype)
        try:
            file = self._handle.get()
            with self._handle.lock:
                pages = list(file.series[self._series].levels[self._level].pages)
            for channel, page in enumerate(pages):
                (self._copy_rows if self._rows else self._decode_page)(out[channel:], page, y, x)
        except DECODER_ERRORS as reason:
            return self._read_otherwise(y, x, reason)
        return out

    def _read_otherwise(self, y: tuple[int, int], x: tuple[int, int], reason: Exception) -> NDArray[Any]:
        """What tifffile cannot decode of a coarser level: means of the finer one."""
        what = f"level {self._level}, rows {y[0]} to {y[1]}, columns {x[0]} to {x[1]}: {describe(reason)}"
        advice = "`backend='openslide'` reads the slide by openslide, if that can"
        if self._finer is None:
            check.refuse_damaged(self._handle.path, "slide", f"{what}; {advice}")
        if not self._warned:
            self._warned = True
            name = self._handle.path.name
            warn(f"The slide '{name}' cannot be read in part ({what}); means of the finer level are used. {advice}.")
        found = block_means(self._finer, self.shape[1:], y, x)
        opaque = np.full((self._n_samples - len(found), *found.shape[1:]), _white(self.dtype), self.dtype)
        return np.concatenate([found, opaque])

    def _decode_into_temporary_file(self, path: Path) -> TemporaryPixels:
        """The whole level in a temporary file, since nothing smaller can be decoded."""
        shape = (self._n_samples, *self.shape[1:])
        warn(
            f"'{path.name}' holds {shape[2]} x {shape[1]} pixels in strips that are too large to be decoded again for "
            "each patch. They are decoded once into a temporary file; `stp.io.read_wsi(…, to_zarr=…)` keeps them."
        )
        pixels = self._read_stored((0, shape[1]), (0, shape[2]))
        try:
            return TemporaryPixels(pixels)
        except OSError as error:
            msg = (
                f"The {pixels.nbytes / 1e9:,.1f} GB of pixels of '{path.name}' do not fit into the temporary folder "
                f"'{gettempdir()}' ({error.strerror}). Name another one by the environment variable TMPDIR, or convert "
                "the slide to a tiled pyramid."
            )
            raise OSError(error.errno, msg) from error

    def _copy_rows(self, out: NDArray[Any], page: Any, y: tuple[int, int], x: tuple[int, int]) -> None:
        """Copy rows of strips that are not compressed, without reading all of a strip."""
        keyframe = page.keyframe
        planar = keyframe.planarconfig == 2
        n_samples = 1 if planar else keyframe.samplesperpixel
        dtype = self.dtype.newbyteorder(keyframe.parent.byteorder)
        row_bytes, height = self.shape[2] * n_samples * dtype.itemsize, _tile_shape(keyframe)[0]
        down = math.ceil(self.shape[1] / height)
        for plane in range(keyframe.samplesperpixel if planar else 1):
            for strip in range(y[0] // height, math.ceil(y[1] / height)):
                top, bottom = max(y[0], strip * height), min(y[1], (strip + 1) * height)
                n_bytes, n_rows = page.databytecounts[plane * down + strip], min(self.shape[1] - strip * height, height)
                if n_bytes < n_rows * row_bytes:
                    msg = f"strip {strip} has {n_bytes} bytes, where {n_rows * row_bytes} belong"
                    raise ValueError(msg)
                with self._handle.lock:
                    file = self._handle.get().filehandle
                    file.seek(page.dataoffsets[plane * down + strip] + (top - strip * height) * row_bytes)
                    content = file.read((bottom - top) * row_bytes)
                rows = np.frombuffer(content, dtype).reshape(bottom - top, self.shape[2], n_samples)
                out[plane : plane + n_samples, top - y[0] : bottom - y[0]] = rows[:, slice(*x)].transpose(2, 0, 1)

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


class TemporaryPixels:
    """Pixels in a temporary file, which is removed when it is closed."""

    def __init__(self, pixels: NDArray[Any]) -> None:
        self._file = TemporaryFile()  # noqa: SIM115  (as long as the pixels are needed)
        pixels.tofile(self._file)
        self.pixels = np.memmap(self._file, pixels.dtype, "r", shape=pixels.shape)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def _white(dtype: Any) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 1


def _tile_shape(keyframe: Any) -> tuple[int, int]:
    """Height and width of a tile or strip."""
    if keyframe.is_tiled:
        return keyframe.tilelength, keyframe.tilewidth
    return min(keyframe.rowsperstrip or keyframe.imagelength, keyframe.imagelength), keyframe.imagewidth


def _require_sizes(pages: Any) -> None:
    """Refuse a level without pixels, of a type that is no number, or with fewer tiles than it needs."""
    first = pages[0].keyframe
    sizes = (first.imagelength, first.imagewidth, *_tile_shape(first), first.samplesperpixel, first.bitspersample)
    if first.dtype is None or not all(isinstance(size, int) and size > 0 for size in sizes):
        msg = f"its tags give height, width, those of a tile, samples and bits as {sizes}, of type {first.dtype}"
        raise ValueError(msg)
    height, width = _tile_shape(first)
    n_planes = first.samplesperpixel if first.planarconfig == 2 else 1
    n_needed = n_planes * math.ceil(first.imagelength / height) * math.ceil(first.imagewidth / width)
    found = min(len(page.dataoffsets) for page in pages)
    if found < n_needed:
        msg = f"it holds {found} tiles or strips, where {n_needed} belong"
        raise ValueError(msg)


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


def open_slide_file(path: Path, picture: int | None = None) -> SlideFile | str:
    """Open a TIFF: a picture, or the largest in colour, and its metadata; or why tifffile cannot read it."""
    with check.required_module("tiffslide"):
        import tiffslide  # noqa: F401  (brings tifffile and its codecs)
        from tifffile import TiffFile
    handle = FileHandle(path, TiffFile)
    try:
        file = handle.get()
        n_pictures = len(file.series)
        largest = _largest_pictures(file) if picture is None or not 0 <= picture < n_pictures else [picture]
        series = file.series[largest[0]]
        pages = [page for level in series.levels for page in level.pages]
        ends = [offset + n for page in pages for offset, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        n_needed = max([_next_page(file), *ends])
        metadata = _read_metadata(path, file, series)
        levels: list[TiffLevel] = []
        for i, level in enumerate(series.levels):
            levels.append(TiffLevel(handle, largest[0], i, list(level.pages), levels[-1] if levels else None))
        stated = series.keyframe.tags.valueof("Orientation", default=1)
        orientation = stated if stated in range(1, 9) else 1
        metadata["centre_offset_nm"] = known_pair(*(series.keyframe.tags.valueof(tag) for tag in CENTRE_OFFSET_TAGS))
    except TooLargeError:
        raise
    except DECODER_ERRORS as reason:
        return describe(reason)
    if picture is not None and not 0 <= picture < n_pictures:
        msg = f"`picture` is {picture}; '{path.name}' holds {n_pictures} pictures, numbered from 0. Give one of them."
        raise ValueError(msg)
    n_bytes = path.stat().st_size
    if n_bytes < n_needed:
        check.refuse_damaged(path, "slide", f"it is cut short, with {n_bytes} of at least {n_needed} bytes")
    if series.axes not in AXES:
        check.not_one_plane(path, series.axes, series.shape)
    if len(largest) > 1:
        size = f"{series.keyframe.imagewidth} x {series.keyframe.imagelength} px"
        msg = (
            f"'{path.name}' holds {len(largest)} pictures of {size}: numbers {quote(largest)}. Give the "
            "number of one as `picture` to `stp.io.read_wsi`, or export it to a file of its own."
        )
        raise ValueError(msg)
    unsupported = _why_unsupported(file, series.keyframe)
    if unsupported is not None:
        return unsupported
    return SlideFile(
        levels=tuple(levels),
        backend="tiffslide",
        orientation=orientation,
        **metadata,
    )


def _largest_pictures(file: Any) -> list[int]:
    """Numbers of the pictures with the most pixels, those in colour first, and no label or macro by its name."""
    ranks = []
    for series in file.series:
        in_colour = series.shape[series.axes.find("S" if "S" in series.axes else "C")] in {3, 4}
        second_line = " ".join(series.keyframe.description.splitlines()[1:2])[:40]  # where Aperio names them
        named = set(re.split(r"\W+", f"{series.name} {second_line}".lower()))
        size = series.keyframe.imagelength * series.keyframe.imagewidth
        ranks.append((not named & {"label", "macro", "thumbnail"}, in_colour, size))
    return [number for number, rank in enumerate(ranks) if rank == max(ranks)]


def _why_unsupported(file: Any, page: Any) -> str | None:
    """Why tifffile does not give the colours of a slide, or all of it in one piece; None if it does."""
    colour, compression = (getattr(tag, "name", str(tag)) for tag in (page.photometric, page.compression))
    if file.is_scn or file.is_bif:
        return "its areas must be put together, which openslide does"
    if colour not in COLOURS or page.compression == APERIO_YCBCR or page.bitspersample not in {8, 16, 32}:
        return f"its pixels are {colour} with {page.bitspersample} bits, compressed as {compression}"
    if colour == "YCBCR" and page.compression not in DECODED_TO_RGB:
        return f"its pixels are YCbCr, compressed as {compression}"
    return None


def _next_page(file: Any) -> int:
    """Offset of a page after the last one that was found: 0, unless the file is truncated."""
    if file.is_ndpi:
        return 0
    file.filehandle.seek(file.pages.next_page_offset)
    (offset,) = struct.unpack(file.tiff.offsetformat, file.filehandle.read(file.tiff.offsetsize))
    return int(offset)


def _read_metadata(path: Path, file: Any, series: Any) -> dict[str, Any]:
    """Resolution, vendor and magnification; metadata that cannot be read cost nothing but themselves."""
    try:
        from_tags = resolution_from_tags(series.keyframe.tags)
    except DECODER_ERRORS:  # no rational numbers
        from_tags = None
    if file.is_ome:
        from_xml, doubt = resolution_from_ome_xml(file.ome_metadata, series.shape, series.axes)
        return {"um_per_px": from_xml or from_tags, "vendor": "ome", "doubt": doubt}
    if not (file.is_svs or file.is_ndpi or file.is_philips):
        return {"um_per_px": from_tags, "vendor": "generic-tiff"}
    from tiffslide import TiffSlide

    try:
        # it warns that it knows little of NDPI
        with warnings.catch_warnings(action="ignore"), TiffSlide(path) as slide:
            properties = dict(slide.properties)
    except DECODER_ERRORS as reason:
        return {
            "um_per_px": from_tags,
            "vendor": "generic-tiff",
            "doubt": f"its metadata cannot be read ({describe(reason)})",
        }
    return {
        "um_per_px": plausible_resolution(properties.get("tiffslide.mpp-x"), properties.get("tiffslide.mpp-y")),
        "vendor": properties.get("tiffslide.vendor"),
        "objective_power": number(properties.get("tiffslide.objective-power")),
    }
