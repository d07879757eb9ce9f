"""Whether an image is the one that positions refer to: its size says so, by the overviews that Space Ranger made of it.

The one place for Visium and Visium HD.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from spatialdata.transformations import Scale, set_transformation

from .._checks.training import warn
from . import _errors as check
from . import _platforms as platforms
from .images import picture_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from xarray import DataTree

OVERVIEWS: Final = ("hires", "lowres")
MAX_OFF: Final = 0.05
"""Share of spots off an image that is accepted where no overview says how large the image must be."""


class FullImage(NamedTuple):
    """An image, and the spots that it shows."""

    element: DataTree
    scale: float
    """Its pixels per pixel of the positions: 1 unless it was rescaled."""
    shown: NDArray[np.bool_]
    """``(n,)`` which spots lie on it."""


def find_overviews(folders: Sequence[Path]) -> dict[str, Path]:
    """The small copies of the image that Space Ranger writes, by kind."""
    found = {
        kind: files
        for kind in OVERVIEWS
        if (files := [file for folder in folders for file in platforms.find_files(folder, [_overview_name(kind)])])
    }
    return {kind: files[0] for kind, files in found.items()}


def _overview_name(kind: str) -> str:
    return f"tissue_{kind}_image.png"


def open_full_image(
    path: Path,
    xy: NDArray[np.float64],
    name: str,
    *,
    overviews: Mapping[str, Path],
    factors: Mapping[str, float],
    rescale: bool,
) -> FullImage:
    """Open the full-resolution image for spots ``(n, 2)``, of the size that the overviews say.

    With ``rescale`` it may be a larger or smaller copy, which is placed over the positions.
    """
    element, _ = platforms.open_image(path, name)
    size = np.array(platforms.image_size(element))
    expected = _expected_size(overviews, factors)
    scale = 1.0 if expected is None else _scale(size, *expected, path, rescale=rescale)
    shown = ((xy >= 0) & (xy * scale < size)).all(axis=1)
    _require_spots(shown, xy, size, path, known=expected is not None)
    if scale != 1:
        set_transformation(element, {name: Scale([1 / scale, 1 / scale], ("x", "y"))}, set_all=True)
    return FullImage(element, scale, shown)


def _expected_size(
    overviews: Mapping[str, Path], factors: Mapping[str, float]
) -> tuple[NDArray[np.float64], float] | None:
    """Width and height of the image that Space Ranger was given, and how far rounding lets them be off; or None."""
    for kind, path in overviews.items():
        factor = factors.get(f"tissue_{kind}_scalef", 0.0)
        if factor > 0:
            return np.array(picture_size(path, "overview")) / factor, 1 + 1 / factor
    return None


def _scale(size: NDArray[Any], expected: NDArray[np.float64], rounding: float, path: Path, *, rescale: bool) -> float:
    """Pixels of the image per pixel of the positions: 1, or another one if asked for."""
    agrees = np.abs(size - expected) <= rounding
    if agrees.all():
        return 1.0
    what = (
        f"Image '{path.name}' is {size[0]} x {size[1]} px, but the positions refer to one of about {expected[0]:.0f} x "
        f"{expected[1]:.0f} px: that is the size of Space Ranger's overview over its scale factor"
    )
    low, high = (size / (expected + rounding)).max(), (size / np.maximum(expected - rounding, 1)).min()
    ratio = float((size / expected).mean())
    if low <= high:
        if rescale:
            return ratio
        msg = (
            f"{what}. It seems to be a copy {ratio:.4g} times as large. {check.WHERE_FULL_IMAGE} Or give "
            "`rescale_image=True` to place this copy over the positions."
        )
        raise ValueError(msg)
    if not agrees.any():
        msg = f"{what}. It is another picture, or a part of it. {check.WHERE_FULL_IMAGE}"
        raise ValueError(msg)
    side = "wide" if agrees[1] else "high"
    warn(f"{what}. Only one side agrees, so it is read as the same picture, cut or extended: less or more {side}.")
    return 1.0


def _require_spots(
    shown: NDArray[np.bool_], xy: NDArray[np.float64], size: NDArray[Any], path: Path, *, known: bool
) -> None:
    """Warn of spots off the image; refuse an image without any, or with few where nothing else says that it is it."""
    n_off = int((~shown).sum())
    if not n_off:
        return
    x, y = xy.max(axis=0)
    what = (
        f"{n_off} of {len(xy)} spots lie off image '{path.name}': they reach x = {x:.0f}, y = {y:.0f}, it is "
        f"{size[0]} x {size[1]} px"
    )
    if n_off == len(xy) or (n_off > MAX_OFF * len(xy) and not known):
        msg = (
            f"{what}. It is not the image that the positions refer to, perhaps a smaller copy. {check.WHERE_FULL_IMAGE}"
        )
        raise ValueError(msg)
    warn(f"{what}. They were left out: CytAssist finds tissue beyond the edge of the microscope's image.")
