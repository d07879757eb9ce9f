"""Checks of images: resolution, square pixels, colour, range of values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence


MAX_RESOLUTION_DIFFERENCE = 0.05
"""Largest relative difference between two sources of a resolution."""
MAX_ANISOTROPY = 0.01
"""Largest relative difference between the width and the height of a pixel."""


OPACITY = {"a", "alpha", "opacity", "transparency"}
"""Names of a channel of opacity."""


def quote(names: Sequence[object]) -> str:
    """The first eight names, quoted, for a message."""
    shown = ", ".join(repr(name) for name in list(names)[:8])
    return (shown + (f", … ({len(names)} in all)" if len(names) > 8 else "")) or "none"


def one_name(what: str, asked: str | None, found: Sequence[str], argument: str) -> str:
    """The name that is asked for, by default the only one; refuse any other name, and to guess among several."""
    if asked is None and len(found) == 1:
        return found[0]
    if asked is None or asked not in found:
        named = "" if asked is None else f" named {asked!r}"
        question = f"Which {what} is meant?" if found and not named else f"There is no {what}{named}."
        advice = f"Give one of these as `{argument}`" if found else "Add one first"
        msg = f"{question}{did_you_mean(asked or '', found)} Found: {quote(found)}. {advice}."
        raise ValueError(msg)
    return asked


def resolution(um_per_px: float, image_key: str) -> None:
    """Refuse a resolution out of range."""
    if not (math.isfinite(um_per_px) and 0.01 <= um_per_px <= 200):
        msg = (
            f"The resolution of image {image_key!r} is given as {um_per_px} µm per pixel; slides lie between 0.01 and "
            "200. Set it with `stp.pp.resolution(sdata, um_per_px=…)`."
        )
        raise ValueError(msg)


def similar_resolution(one: float, other: float) -> bool:
    """Whether two resolutions differ by no more than 5 %."""
    return bool(abs(one / other - 1) <= MAX_RESOLUTION_DIFFERENCE + 1e-9)


def square_pixels(x: float, y: float, name: str) -> None:
    """Refuse an image whose pixels are not square by what its file or its spots say."""
    if not abs(x / y - 1) <= MAX_ANISOTROPY:
        msg = (
            f"Pixels of image {name!r} are not square: {x:.4g} µm wide and {y:.4g} µm high "
            f"({100 * (x / y - 1):+.1f} %, at most 1 % is allowed). Resample the image to square pixels first."
        )
        raise ValueError(msg)


def has_stain[Measured](stain: Measured | None, image_key: str) -> Measured:
    """The stain; refuse slides on which it could not be measured."""
    if stain is None:
        msg = (
            f"The stain of image {image_key!r} cannot be measured: its tissue is too small or too pale, or is stained "
            "by one dye only. See whether it is stained with haematoxylin and eosin, and whether its tissue is right "
            "(`stp.pp.tissue`); predict it without `stain`."
        )
        raise ValueError(msg)
    return stain


def is_opacity(name: object) -> bool:
    """Whether the name of a fourth channel says that it is opacity."""
    return str(name).strip().lower() in OPACITY


def colour_image(shape: tuple[int, ...], image_key: str) -> None:
    """Refuse images that are not RGB or RGBA."""
    if shape[0] not in {3, 4}:
        what = "grey: one channel" if shape[0] == 1 else f"{shape[0]} channels"
        msg = (
            f"Image {image_key!r} is not H&E in colour ({what}, shape {tuple(shape)}); 3 (RGB) or 4 (RGBA) channels "
            "are supported. Give the colour image as `image_key`, or select its channels with `image.sel(c=[…])`."
        )
        raise ValueError(msg)


def distinct_slides(pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse slides that share spots, whatever their names: a spot would be validated on that was also trained on."""
    if pairs:
        shown = quote([f"{one} and {other}" for one, other in pairs])
        msg = (
            f"Slides hold the same spots: {shown}. One slide was given twice, or parts of one overlap, so that a spot "
            "could be tested on that was trained on. Give each spot once."
        )
        raise ValueError(msg)
