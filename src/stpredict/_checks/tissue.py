"""Errors about tissue masks: which image is meant, where the result may go, and slides without any tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .slides import listed

if TYPE_CHECKING:
    from collections.abc import Sequence


def one_image(names: Sequence[str]) -> None:
    """Refuse to guess among several images, or to go on without one."""
    if not names:
        msg = "There is no image in `sdata.images`, so no tissue to find. Add one, for instance with `stp.io.read_st`."
        raise ValueError(msg)
    if len(names) > 1:
        msg = (
            f"On which image shall tissue be found? There are {listed(names)}. Give one as `image_key`, and a name for "
            "its polygons as `key_added`."
        )
        raise ValueError(msg)


def may_write(key_added: str, elements: Sequence[str], made: Sequence[str]) -> None:
    """Refuse to overwrite an element that was not found here."""
    if key_added in elements and key_added not in made:
        msg = (
            f"The object already has an element {key_added!r} that `stp.pp.tissue` did not make (it made: "
            f"{listed(made)}), and it is not overwritten. Give another name as `key_added`, or delete it with "
            f"`del sdata[{key_added!r}]`."
        )
        raise ValueError(msg)


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
