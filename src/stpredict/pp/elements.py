"""Images and polygons of a SpatialData: which are meant, where they lie, and how ours are replaced. Private to `pp`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from spatialdata.transformations import get_transformation

from .. import _keys as keys
from .._checks import grid as check_grid
from .._checks import slides as check
from .._geometry import apply_affine, axis_scales
from .._slides import affine_matrix, slide_images

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData

logger = logging.getLogger(__name__)


def find_image(sdata: SpatialData, asked: str | None, coordinate_system: str | None = None) -> str:
    """The image that is meant; by default the only one, of those in a coordinate system.

    Parameters
    ----------
    sdata
        The object.
    asked
        Its name, if it was given.
    coordinate_system
        A coordinate system that it must be in, if one was given.

    Returns
    -------
    Its name. Its pixels are square in the coordinate system.
    """
    systems = {name: set(get_transformation(sdata[name], get_all=True)) for name in slide_images(sdata)}
    if asked is None:
        names = [name for name, own in systems.items() if coordinate_system is None or coordinate_system in own]
        check.the_image(names, coordinate_system)
        asked = names[0]
    check.has_image(list(systems), asked)
    check_grid.in_system(systems[asked], coordinate_system, asked)
    system = coordinate_system or min(systems[asked])
    check.isotropic(axis_scales(np.linalg.inv(affine_matrix(sdata[asked], system))), asked, system)
    return asked


def affine_to_image(
    sdata: SpatialData, key: str, image_key: str, asked: str | None, argument: str
) -> NDArray[np.float64]:
    """From an element's own coordinates to pixels of an image.

    Parameters
    ----------
    sdata
        The object.
    key
        Shapes or labels.
    image_key
        The image.
    asked
        Coordinate system to go through; None for any that they share.
    argument
        What the user calls the element by, for messages.

    Returns
    -------
    ``(3, 3)`` homogeneous matrix of points ``(x, y)``.
    """
    element, image = sdata[key], sdata.images[image_key]
    systems = set(get_transformation(element, get_all=True)) & set(get_transformation(image, get_all=True))
    shared = sorted(systems if asked is None else systems & {asked})
    check.shares_system(shared, key, image_key, argument)
    matrix: NDArray[np.float64] = np.linalg.inv(affine_matrix(image, shared[0])) @ affine_matrix(element, shared[0])
    return matrix


def polygons_in_pixels(sdata: SpatialData, key: str, image_key: str, asked: str | None, argument: str) -> Any:
    """All polygons of an element in pixels of an image, as one.

    Parameters
    ----------
    sdata
        The object.
    key
        Shapes.
    image_key
        The image.
    asked
        Coordinate system to go through; None for any that they share.
    argument
        What the user calls the element by, for messages.

    Returns
    -------
    One (multi)polygon, repaired where the polygons are not valid, perhaps empty.
    """
    import shapely

    shapes = sdata.shapes[key]
    check.areas(set(shapes.geometry.geom_type), key, argument)
    to_px = affine_to_image(sdata, key, image_key, asked, argument)
    areas = shapely.make_valid(shapely.transform(shapes.geometry.to_numpy(), lambda xy: apply_affine(to_px, xy)))
    parts = shapely.get_parts(shapely.get_parts(areas))  # repairs may nest polygons, and leave lines
    return shapely.union_all(parts[shapely.get_dimensions(parts) == 2])


def tissue_in_pixels(sdata: SpatialData, tissue_key: str | None, image_key: str, asked: str | None) -> Any:
    """The tissue in pixels of an image.

    Parameters
    ----------
    sdata
        The object.
    tissue_key
        Shapes; None for none, and so is a missing ``"tissue"``.
    image_key
        The image.
    asked
        Coordinate system to go through; None for any that they share.

    Returns
    -------
    One (multi)polygon, or None.
    """
    if tissue_key is None or (tissue_key == keys.TISSUE and tissue_key not in sdata.shapes):
        logger.info("No tissue is drawn on image %r.", image_key)
        return None
    check.has_polygons(list(sdata.shapes), tissue_key, "tissue_key")
    return polygons_in_pixels(sdata, tissue_key, image_key, asked, "tissue_key")


def write_shapes(sdata: SpatialData, key_added: str, frame: GeoDataFrame, image_key: str) -> None:
    """Put shapes in pixels of an image into an object, with the image's transformations; ours of that name go.

    Parameters
    ----------
    sdata
        The object.
    key_added
        Name of the shapes.
    frame
        Polygons, or points with a column ``radius``.
    image_key
        The image.

    Returns
    -------
    Nothing. Changes ``sdata.shapes``.
    """
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


def write_attrs(sdata: SpatialData, kind: str, key_added: str, values: dict[str, Any]) -> None:
    """Write down how something was made.

    Parameters
    ----------
    sdata
        The object.
    kind
        Key in ``sdata.attrs["stpredict"]``.
    key_added
        What was made.
    values
        Parameters and figures, ready for JSON.

    Returns
    -------
    Nothing. Changes ``sdata.attrs``.
    """
    ours = sdata.attrs.get(keys.ATTRS, {})
    sdata.attrs[keys.ATTRS] = {**ours, kind: {**ours.get(kind, {}), key_added: values}}


def read_attrs(sdata: SpatialData, kind: str) -> dict[str, Any]:
    """What `note` has written of a kind.

    Parameters
    ----------
    sdata
        The object.
    kind
        Key in ``sdata.attrs["stpredict"]``.

    Returns
    -------
    Values by name.
    """
    found: dict[str, Any] = sdata.attrs.get(keys.ATTRS, {}).get(kind, {})
    return found
