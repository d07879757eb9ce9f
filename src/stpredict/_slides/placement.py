"""How coordinate systems place the elements of a SpatialData on its images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from spatialdata.transformations import get_transformation

from .. import _keys as keys
from .._geometry import apply_affine, orientation
from . import checks as check
from .levels import pyramid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData


def shared_system(sdata: SpatialData, key: str, image_key: str, systems: Sequence[str]) -> str:
    """The coordinate system that places an element on an image; an error if several place it differently.

    Of several that agree it is the first in which the image is not turned, else the first.
    """
    element, image = sdata[key], sdata.images[image_key]
    to_px = {system: np.linalg.inv(affine_matrix(image, system)) for system in systems}
    element_to_px = {system: to_px[system] @ affine_matrix(element, system) for system in systems}
    height, width = pyramid(image)[0].pixels.shape[1:]
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
    first = apply_affine(np.linalg.inv(element_to_px[systems[0]]), corners)
    check.same_placement(
        {name: apply_affine(matrix, first) - corners for name, matrix in element_to_px.items()}, key, image_key
    )
    upright = [name for name, matrix in to_px.items() if np.array_equal(orientation(matrix), np.eye(2))]
    return next(iter(upright), systems[0])


def slide_images(sdata: SpatialData) -> list[str]:
    """Names of the images that may show tissue: all but those that `tl.rasterize` made."""
    made = sdata.attrs.get(keys.ATTRS, {}).get(keys.RASTER, {})
    return [name for name in sdata.images if name not in made]


def affine_matrix(element: Any, system: str) -> NDArray[np.float64]:
    """``(3, 3)`` matrix from ``(x, y)`` of an element to ``(x, y)`` of a coordinate system that it is in."""
    transformation = get_transformation(element, to_coordinate_system=system)
    matrix: NDArray[np.float64] = transformation.to_affine_matrix(("x", "y"), ("x", "y"))
    return matrix
