"""Slides that openslide reads: MRXS, DICOM, SCN, BIF, and TIFF where tifffile fails."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import wsi as check
from .._chunks import FileArray
from .._rgb import to_rgb
from ._wsi_levels import Handle, SlideFile
from ._wsi_resolution import sane

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from numpy.typing import NDArray

TILE_PX = 512
"""What is read at once where the file does not say how it is tiled."""


class OpenslideLevel(FileArray):
    """One level of a slide; where nothing was scanned it is white.

    Parameters
    ----------
    handle
        The slide.
    level
        Which of its levels.
    """

    def __init__(self, handle: Handle, level: int) -> None:
        slide = handle.get()
        width, height = slide.level_dimensions[level]
        tile = [int(slide.properties.get(f"openslide.level[{level}].tile-{s}", TILE_PX)) for s in ("height", "width")]
        super().__init__((3, height, width), np.uint8, (3, tile[0], tile[1]))
        self._handle, self._level, self._factor = handle, level, slide.level_downsamples[level]
        self._one_by_one = slide.properties.get("openslide.vendor") == "dicom"
        """openslide 4.0.1 crashes where two threads meet damage in one DICOM."""

    def read(self, y: tuple[int, int], x: tuple[int, int]) -> NDArray[Any]:
        """Decode a range.

        Parameters
        ----------
        y, x
            First row or column, and the one after the last.

        Returns
        -------
        ``(3, h, w)`` uint8.
        """
        if y[0] == y[1] or x[0] == x[1]:
            return np.empty((3, y[1] - y[0], x[1] - x[0]), np.uint8)
        corner = round(x[0] * self._factor), round(y[0] * self._factor)
        slide = self._handle.get()
        try:
            with self._handle.lock if self._one_by_one else nullcontext():
                region = slide.read_region(corner, self._level, (x[1] - x[0], y[1] - y[0]))
        except _module().OpenSlideError as reason:
            check.unreadable(self._handle.path, reason)
        return np.ascontiguousarray(to_rgb(np.asarray(region).transpose(2, 0, 1))[0])  # what is transparent is white


def _module() -> ModuleType:
    with check.needs("openslide"):
        import openslide
    module: ModuleType = openslide
    return module


def open_slide(path: Path) -> Any:
    """Open a slide.

    Parameters
    ----------
    path
        Where it is.

    Returns
    -------
    An ``openslide.OpenSlide``.
    """
    return _module().OpenSlide(path)


def knows(path: Path) -> bool:
    """Whether openslide recognises a file; it looks at the content.

    Parameters
    ----------
    path
        Where it is.

    Returns
    -------
    True or False.
    """
    return _module().OpenSlide.detect_format(path) is not None


def slide_file(path: Path) -> SlideFile:
    """What a slide holds.

    Parameters
    ----------
    path
        Where it is.

    Returns
    -------
    Its levels and what is said about it.
    """
    module, handle = _module(), Handle(path, open_slide)
    try:
        slide = handle.get()
    except (module.OpenSlideError, OSError) as reason:
        check.unreadable(path, reason)
    said = slide.properties
    power = said.get(module.PROPERTY_NAME_OBJECTIVE_POWER)
    return SlideFile(
        levels=tuple(OpenslideLevel(handle, level) for level in range(slide.level_count)),
        um_per_px=sane(said.get(module.PROPERTY_NAME_MPP_X), said.get(module.PROPERTY_NAME_MPP_Y)),
        vendor=said.get(module.PROPERTY_NAME_VENDOR),
        objective_power=None if power is None else float(power),
        backend="openslide",
    )
