"""Pixel values of any image as 8-bit RGB: their range, transparency, missing pixels. numpy only."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ._checks import slides as check
from ._checks.decoding import compute_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ._slides.levels import Level


def rgb_converter(levels: Sequence[Level], image_key: str) -> partial[Any]:
    """`to_rgb` for the pixels of an image; a fourth channel that is 0 everywhere is no opacity."""
    gain, coarsest = rgb_gain(levels, image_key), levels[-1].pixels
    opaque = coarsest.shape[0] == 4 and not compute_pixels(coarsest[3:], f"image {image_key!r}").any()
    return partial(to_rgb, gain=gain, opaque=opaque)


def to_rgb(
    pixels: NDArray[Any], gain: float = 1.0, *, opaque: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """``(3 or 4, h, w)`` pixels as 8-bit RGB, and ``(h, w)`` which are missing (NaN), None where none is.

    ``gain`` brings values to [0, 255]; the fourth channel is opacity, unless all is ``opaque``; transparent and
    missing pixels become white.
    """
    pixels = pixels[:3] if opaque else pixels
    if pixels.dtype == np.uint8 and gain == 1 and (len(pixels) == 3 or (pixels[3] == 255).all()):
        return pixels[:3], None
    values = pixels.astype(np.float32) * np.float32(gain)
    missing = np.isnan(values).any(axis=0) if pixels.dtype.kind == "f" else np.zeros((), bool)
    if missing.any():
        values = np.where(missing, np.float32(255), values)
    if len(values) == 4:
        alpha = values[3] / 255
        values = values[:3] * alpha + 255 * (1 - alpha)
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8), missing if missing.any() else None


def rgb_gain(levels: Sequence[Level], image_key: str) -> float:
    """Factor that brings the pixel values of a colour image, finest level first, to [0, 255].

    uint8 stays. Other integers are read as 8, 12 or 16 bits, the fewest that hold the maximum of the coarsest level;
    floats as [0, 1] or [0, 255].
    """
    check.colour_image(levels[0].pixels.shape, image_key)
    coarsest = levels[-1].pixels
    dtype = np.dtype(coarsest.dtype)
    if dtype == np.uint8:
        return 1.0
    values = compute_pixels(coarsest, f"image {image_key!r}")
    known = values[~np.isnan(values)] if dtype.kind == "f" else values
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    tops = (1.0, 255.0) if dtype.kind == "f" else (255.0, 4095.0, 65535.0)
    top = next((top for top in tops if high <= top * 1.001), None)
    if top is None or low < 0:
        msg = (
            f"Pixels of image {image_key!r} are {dtype} in [{low:g}, {high:g}]; supported are uint8, other whole "
            "numbers from 0 to 65535 (as 8, 12 or 16 bits, the fewest that hold them) and floats in [0, 1] or [0, 255]"
            ". Rescale the image to one of these, for instance `(image / image.max() * 255).astype('uint8')`."
        )
        raise ValueError(msg)
    return 255.0 / top
