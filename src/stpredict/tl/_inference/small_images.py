"""A small image of each slide beside its predictions, where scanpy and squidpy look for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ... import _keys as keys
from ...pp.thumbnails import thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..._slides.slides import Slide

SIDE_PX = 800
"""The longer side of an image is at least this long, if the slide is, and less than twice as long."""


def small_images(slides: Sequence[Slide]) -> dict[str, Any]:
    """Image and scale factors of each slide by its spots element, as in ``uns["spatial"]`` of a Visium table."""
    return {slide.shapes_key: _record(slide) for slide in slides if slide.levels}


def _record(slide: Slide) -> dict[str, Any]:
    longest = max(slide.levels[0].pixels.shape[1:])
    small = thumbnail(slide.levels, slide.um_per_px, slide.um_per_px * max(1.0, longest / SIDE_PX), slide.image_key)
    factors = {
        keys.HIRES_SCALE: 1 / float(np.mean(small.step)),
        keys.SPOT_DIAMETER: slide.diameter_um / slide.um_per_px,
    }
    return {keys.IMAGES: {keys.HIRES: np.rint(small.rgb).astype(np.uint8)}, keys.SCALEFACTORS: factors}
