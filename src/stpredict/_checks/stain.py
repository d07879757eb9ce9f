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


def measured[Measured](stain: Measured | None, image_key: str) -> Measured:
    """The stain; refuse slides on which it could not be measured."""
    if stain is None:
        msg = (
            f"The stain of image {image_key!r} cannot be measured: its tissue is too small or too pale, or is stained "
            "by one dye only. See whether it is stained with haematoxylin and eosin, and whether its tissue is right "
            "(`stp.pp.tissue`); predict it without `stain`."
        )
        raise ValueError(msg)
    return stain


def reference[Measured](stain: Measured | None) -> Measured:
    """The stain that a predictor was trained on; refuse predictors that do not know it."""
    if stain is None:
        msg = (
            "The predictor does not know the stain of the slides it was trained on: it was made by an older version, "
            "or that stain could not be measured. Predict without `stain`, or train again with `stp.tl.fit`."
        )
        raise ValueError(msg)
    return stain
