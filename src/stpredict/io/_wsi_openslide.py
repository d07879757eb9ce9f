"""Slides that openslide reads: MRXS, DICOM, SCN, BIF, and TIFF where tifffile fails."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from .._chunks import FileArray
from .._rgb import to_rgb
from . import _errors as check
from ._wsi_levels import FileHandle, SlideFile
from ._wsi_resolution import plausible_resolution

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

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
        try:
            with self._handle.lock if self._one_thread else nullcontext():
                region = slide.read_region(corner, self._level, (x[1] - x[0], y[1] - y[0]))
        except _openslide().OpenSlideError as reason:
            check.damaged(self._handle.path, "slide", reason)
        return np.ascontiguousarray(to_rgb(np.asarray(region).transpose(2, 0, 1))[0])  # transparent becomes white


def _openslide() -> ModuleType:
    with check.required_module("openslide"):
        import openslide
    module: ModuleType = openslide
    return module


def recognises(path: Path) -> bool:
    """Whether openslide recognises the content of a file."""
    return _openslide().OpenSlide.detect_format(path) is not None


def open_slide_file(path: Path) -> SlideFile:
    """Open a slide through openslide."""
    openslide = _openslide()
    handle = FileHandle(path, openslide.OpenSlide)
    try:
        slide = handle.get()
    except (openslide.OpenSlideError, OSError) as reason:
        check.unreadable(path, "slide", reason)
    metadata = slide.properties
    power = metadata.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)
    return SlideFile(
        levels=tuple(OpenslideLevel(handle, level) for level in range(slide.level_count)),
        um_per_px=plausible_resolution(
            metadata.get(openslide.PROPERTY_NAME_MPP_X), metadata.get(openslide.PROPERTY_NAME_MPP_Y)
        ),
        vendor=metadata.get(openslide.PROPERTY_NAME_VENDOR),
        objective_power=None if power is None else float(power),
        backend="openslide",
    )
