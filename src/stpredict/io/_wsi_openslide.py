"""Slides that openslide reads: MRXS, DICOM, SCN, BIF, and TIFF where tifffile fails."""

from __future__ import annotations

from contextlib import nullcontext
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._checks.decoding import describe
from .._chunks import FileArray
from .._rgb import to_rgb
from . import _errors as check
from ._wsi_levels import FileHandle, SlideFile
from ._wsi_resolution import known_pair, number, plausible_resolution

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

CENTRE_OFFSET: Final = ("hamamatsu.XOffsetFromSlideCentre", "hamamatsu.YOffsetFromSlideCentre")
TILE_PX = 512
"""Side of what is read at once where the file does not state its tiles."""


class OpenslideLevel(FileArray):
    """One level of a slide; areas that were not scanned are white."""

    def __init__(self, handle: FileHandle, level: int) -> None:
        slide = handle.get()
        width, height = slide.level_dimensions[level]
        tile = [int(slide.properties.get(f"openslide.level[{level}].tile-{s}", TILE_PX)) for s in ("height", "width")]
        super().__init__((3, height, width), np.uint8, (3, tile[0], tile[1]))
        self._handle, self._level, self._factor = handle, level, slide.level_downsamples[level]
        self._one_thread = slide.properties.get("openslide.vendor") == "dicom"
        """openslide 4.0.1 crashes where two threads read damaged parts of one DICOM."""

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode a range of rows and columns."""
        if y[0] == y[1] or x[0] == x[1]:
            return np.empty((3, y[1] - y[0], x[1] - x[0]), np.uint8)
        corner = round(x[0] * self._factor), round(y[0] * self._factor)
        slide = self._handle.get()
        with (
            check.decoding(self._handle.path, "slide", _openslide().OpenSlideError),
            self._handle.lock if self._one_thread else nullcontext(),
        ):
            region = slide.read_region(corner, self._level, (x[1] - x[0], y[1] - y[0]))
        return np.ascontiguousarray(to_rgb(np.asarray(region).transpose(2, 0, 1))[0])  # transparent becomes white


def _openslide() -> ModuleType:
    with check.required_module("openslide"):
        import openslide
    module: ModuleType = openslide
    return module


def recognises(path: Path) -> bool:
    """Whether openslide recognises the content of a file."""
    try:
        return _openslide().OpenSlide.detect_format(path) is not None
    except _openslide().OpenSlideError:
        return False


def open_slide_file(path: Path) -> SlideFile:
    """Open a slide through openslide."""
    openslide = _openslide()
    handle = FileHandle(path, openslide.OpenSlide)
    try:
        slide = handle.get()
    except (openslide.OpenSlideError, OSError) as reason:
        check.refuse_unreadable(path, "slide", describe(reason))
    with check.decoding(path, "slide", openslide.OpenSlideError):
        metadata = slide.properties
        vendor = metadata.get(openslide.PROPERTY_NAME_VENDOR)
        return SlideFile(
            levels=tuple(OpenslideLevel(handle, level) for level in range(slide.level_count)),
            um_per_px=plausible_resolution(
                metadata.get(openslide.PROPERTY_NAME_MPP_X), metadata.get(openslide.PROPERTY_NAME_MPP_Y)
            ),
            vendor=vendor,
            objective_power=number(metadata.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)),
            backend="openslide",
            centre_offset_nm=known_pair(*(metadata.get(name) for name in CENTRE_OFFSET)),
            factors=_dicom_factors(path, slide.level_dimensions) if vendor == "dicom" else (),
        )


PIXEL_SPACING: Final = b"\x28\x00\x30\x00DS"
COLUMNS, ROWS, SERIES = b"\x48\x00\x06\x00UL", b"\x48\x00\x07\x00UL", b"\x20\x00\x0e\x00UI"
PIXEL_DATA: Final = b"\xe0\x7f\x10\x00"


def _dicom_factors(path: Path, sizes: Sequence[tuple[int, int]]) -> tuple[tuple[float, float] | None, ...]:
    """Factors of the levels by the pixel spacing in the DICOM files of a slide; sizes are width and height."""
    found = [_dicom_spacing(file) for file in sorted(path.parent.iterdir()) if file.is_file()]
    series = _dicom_spacing(path)
    if series is None:
        return ()
    spacings = {each[1]: each[2] for each in found if each is not None and each[0] == series[0]}
    full = spacings.get(sizes[0])
    if full is None:
        return ()
    return tuple((at[0] / full[0], at[1] / full[1]) if (at := spacings.get(size)) else None for size in sizes)


def _dicom_spacing(path: Path) -> tuple[bytes, tuple[int, int], tuple[float, float]] | None:
    """Series, width and height in pixels, and spacing along y and x of a DICOM file with explicit lengths."""
    with path.open("rb") as file:
        if file.read(132)[128:] != b"DICM":
            return None
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            end = content.find(PIXEL_DATA)
            starts = [content.find(tag, 0, end) for tag in (SERIES, COLUMNS, ROWS, PIXEL_SPACING)]
            if min(starts) < 0:
                return None
            series, columns, rows, spacing = (
                content[at + 8 : at + 8 + int.from_bytes(content[at + 6 : at + 8], "little")] for at in starts
            )
    try:
        y, x = (float(value) for value in spacing.decode("ascii").strip("\0 ").split("\\"))
    except ValueError:
        return None
    return (series, (int.from_bytes(columns, "little"), int.from_bytes(rows, "little")), (y, x)) if y * x > 0 else None
