"""Errors about stain: slides that have none to measure, and predictors that know of none."""

from __future__ import annotations


def some_tissue(area: float, image_key: str) -> None:
    """Refuse to measure a slide without tissue."""
    if not area > 0:
        msg = (
            f"No tissue on image {image_key!r}, so there is no stain to measure. The slide may be blank: leave it out. "
            "If it is not, add polygons of your own to `sdata.shapes` and name them as `tissue_key`."
        )
        raise ValueError(msg)
