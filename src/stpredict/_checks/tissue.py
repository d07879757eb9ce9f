"""Errors about tissue: slides without any, and masks that hold none."""

from __future__ import annotations


def found(n_pieces: int, image_key: str, min_area_um2: float, um_per_px: float) -> None:
    """Refuse slides on which nothing looks like tissue."""
    if not n_pieces:
        msg = (
            f"No tissue on image {image_key!r}: no piece of {min_area_um2:g} µm² or more is stained and textured more "
            f"than the background, at {um_per_px:g} µm per pixel. The slide may be blank: leave it out. If it is not, "
            "give a smaller `min_area_um2`, see whether the resolution is right (`stp.pp.resolution`), or add polygons "
            "of your own to `sdata.shapes`."
        )
        raise ValueError(msg)


def not_negative(name: str, value: float) -> None:
    """Refuse areas below zero."""
    if not value >= 0:
        msg = f"`{name}` is {value!r}; it must be 0 or more."
        raise ValueError(msg)


def in_mask(n_pieces: int, mask_key: str, min_area_um2: float) -> None:
    """Refuse masks without tissue on the image."""
    if not n_pieces:
        msg = (
            f"Mask {mask_key!r} holds no piece of {min_area_um2:g} µm² or more on the image. Give a smaller "
            "`min_area_um2`, see whether image and mask are registered and the resolution is right "
            "(`stp.pp.resolution`), or leave out `mask_key` to find tissue by its stain."
        )
        raise ValueError(msg)
