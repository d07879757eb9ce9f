"""Images and polygons of a SpatialData: which are meant, where they lie, and how our own are replaced."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from spatialdata.transformations import get_transformation

from .. import _keys as keys
from .._checks import slides as check_slides
from .._geometry import axis_scales
from . import checks as check_elements
from .placement import affine_matrix, shared_system, slide_images
from .regions import classes_by_element, of_classes, union_polygons

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .regions import Regions

logger = logging.getLogger(__name__)


def find_image(sdata: SpatialData, image_key: str | None, coordinate_system: str | None = None) -> str:
    """Name of the image, by default the only one (in the coordinate system); its pixels must be square."""
    systems = {name: set(get_transformation(sdata[name], get_all=True)) for name in slide_images(sdata)}
    names = [name for name, own in systems.items() if coordinate_system is None or coordinate_system in own]
    what = "image" if coordinate_system is None else f"image of coordinate system {coordinate_system!r}"
    image_key = check_slides.one_name(what, image_key, names, "image_key")
    used = [coordinate_system] if coordinate_system else sorted(systems[image_key])
    scales = {system: axis_scales(np.linalg.inv(affine_matrix(sdata[image_key], system))) for system in used}
    square = [system for system, (x, y) in scales.items() if abs(x / y - 1) <= check_slides.MAX_ANISOTROPY]
    system = next(iter(square), used[0])
    check_elements.isotropic(scales[system], image_key, system)
    return image_key


def affine_to_image(
    sdata: SpatialData, key: str, image_key: str, coordinate_system: str | None, argument: str
) -> NDArray[np.float64]:
    """``(3, 3)`` matrix from coordinates ``(x, y)`` of an element, given as ``argument``, to pixels of an image.

    Without a coordinate system it goes through any that both share; these must agree.
    """
    element, image = sdata[key], sdata.images[image_key]
    systems = set(get_transformation(element, get_all=True)) & set(get_transformation(image, get_all=True))
    shared = sorted(systems if coordinate_system is None else systems & {coordinate_system})
    if not shared:
        msg = (
            f"Shapes {key!r} and image {image_key!r} share no coordinate system. Register them with "
            f"`spatialdata.transformations.set_transformation`, or give another element as `{argument}`."
        )
        raise ValueError(msg)
    system = shared_system(sdata, key, image_key, shared)
    matrix: NDArray[np.float64] = np.linalg.inv(affine_matrix(image, system)) @ affine_matrix(element, system)
    return matrix


def polygons_in_pixels(
    sdata: SpatialData, key: str, image_key: str, coordinate_system: str | None, argument: str
) -> Any:
    """The union of all polygons of an element, in pixels of an image; invalid ones are repaired."""
    to_px = affine_to_image(sdata, key, image_key, coordinate_system, argument)
    return union_polygons(sdata.shapes[key], to_px, key, argument)


def regions_in_pixels(sdata: SpatialData, regions: Regions, image_key: str, argument: str) -> Any:
    """The union of some regions, in pixels of an image."""
    parts = []
    for key, classes in classes_by_element(regions).items():
        check_slides.one_name("element with polygons", key, list(sdata.shapes), argument)
        chosen = of_classes(sdata.shapes[key], classes, key)
        parts.append(union_polygons(chosen, affine_to_image(sdata, key, image_key, None, argument), key, argument))
    return shapely.union_all(parts)


def tissue_in_pixels(sdata: SpatialData, tissue_key: str | None, image_key: str, coordinate_system: str | None) -> Any:
    """The tissue as one (multi)polygon in pixels of an image; None without a key, or if ``"tissue"`` is missing."""
    if tissue_key is None or (tissue_key == keys.TISSUE and tissue_key not in sdata.shapes):
        logger.info("No tissue is drawn on image %r.", image_key)
        return None
    check_slides.one_name("element with tissue", tissue_key, list(sdata.shapes), "tissue_key")
    return polygons_in_pixels(sdata, tissue_key, image_key, coordinate_system, "tissue_key")


def write_shapes(sdata: SpatialData, key_added: str, frame: GeoDataFrame, image_key: str) -> None:
    """Write shapes that are in pixels of an image, with the image's transformations, over any of that name."""
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Affine, Identity

    transformations = {}
    for system, transformation in get_transformation(sdata.images[image_key], get_all=True).items():
        matrix = transformation.to_affine_matrix(("x", "y"), ("x", "y"))
        same = np.array_equal(matrix, np.eye(3))
        transformations[system] = Identity() if same else Affine(matrix, ("x", "y"), ("x", "y"))
    element = ShapesModel.parse(frame, transformations=transformations)
    if key_added in sdata.shapes:
        del sdata.shapes[key_added]
    sdata.shapes[key_added] = element


def write_attrs(sdata: SpatialData, kind: str, key_added: str, values: Any) -> None:
    """Record how an element was made, ready for JSON, in ``sdata.attrs["stpredict"][kind][key_added]``."""
    ours = sdata.attrs.get(keys.ATTRS, {})
    sdata.attrs[keys.ATTRS] = {**ours, kind: {**ours.get(kind, {}), key_added: values}}


def read_attrs(sdata: SpatialData, kind: str) -> dict[str, Any]:
    """What `write_attrs` recorded of one kind, by name of the element."""
    found: dict[str, Any] = sdata.attrs.get(keys.ATTRS, {}).get(kind, {})
    return found
