"""Which spots lie in given polygons, for instance in the annotations of a pathologist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from spatialdata.transformations import get_transformation

from .. import _keys as keys
from .._checks.names import did_you_mean
from .._checks.slides import quote
from .._geometry import apply_affine
from .placement import affine_matrix

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData

Regions = str | Sequence[str] | Mapping[str, str | Sequence[str] | None]
"""Shapes elements with polygons; a mapping also says which of their classes (or names) count."""


def classes_by_element(regions: Regions) -> dict[str, list[str] | None]:
    """The elements of some regions, and the classes that count, None for all."""
    if isinstance(regions, str):
        return {regions: None}
    if not isinstance(regions, Mapping):
        return dict.fromkeys(regions)
    return {
        key: [given] if isinstance(given, str) else None if given is None else list(given)
        for key, given in regions.items()
    }


def spots_in_regions(
    sdata: SpatialData,
    shapes_key: str,
    xy: NDArray[np.float64],
    regions: Regions,
    coordinate_system: str | None = None,
) -> NDArray[np.bool_]:
    """``(n,)`` which points of an element, in its own coordinates, lie in the regions; some must.

    Regions that are not in the object, or share no coordinate system with the element, are those of other slides.
    """
    asked = classes_by_element(regions)
    own = set(get_transformation(sdata[shapes_key], get_all=True))
    own &= own if coordinate_system is None else {coordinate_system}
    inside = np.zeros(len(xy), bool)
    shared = False
    for key, classes in asked.items():
        frame = sdata.shapes.get(key)
        systems = [] if frame is None else sorted(own & set(get_transformation(frame, get_all=True)))
        if not systems:
            continue
        shared = True
        chosen = of_classes(frame, classes, key)
        masks = {
            system: _contains(
                union_polygons(chosen, affine_matrix(sdata[key], system), key, "regions"),
                apply_affine(affine_matrix(sdata[shapes_key], system), xy),
            )
            for system in systems
        }
        _require_same(masks, key, shapes_key)
        inside |= masks[systems[0]]
    if not shared:
        msg = (
            f"`regions` names {quote(list(asked))}, of which none shares a coordinate system with {shapes_key!r} "
            f"(shapes found: {quote(list(sdata.shapes))}). Read annotations of this slide with "
            "`stp.io.read_annotations`, or leave the slide out with `shapes_key`."
        )
        raise ValueError(msg)
    if not inside.any():
        msg = (
            f"None of the {len(xy)} spots of {shapes_key!r} lies in the regions {quote(list(asked))}. Give other "
            "`regions`, or leave the slide out with `shapes_key`."
        )
        raise ValueError(msg)
    return inside


def _contains(area: Any, xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    shapely.prepare(area)
    found: NDArray[np.bool_] = shapely.intersects_xy(area, xy)
    return found


def _require_same(masks: Mapping[str, NDArray[np.bool_]], key: str, shapes_key: str) -> None:
    """Refuse coordinate systems in which different spots lie in the regions."""
    first = next(iter(masks.values()))
    if any((mask != first).any() for mask in masks.values()):
        counted = ", ".join(f"{int(mask.sum())} in {system!r}" for system, mask in masks.items())
        msg = (
            f"Regions {key!r} and {shapes_key!r} share several coordinate systems, in which different spots lie in the "
            f"regions ({counted}). Give one as `coordinate_system`, or remove the others with "
            "`spatialdata.transformations.remove_transformation`."
        )
        raise ValueError(msg)


def of_classes(frame: GeoDataFrame, classes: Sequence[str] | None, key: str) -> GeoDataFrame:
    """The shapes whose class or name is among the given ones."""
    if classes is None:
        return frame
    asked = [str(name) for name in classes]
    texts = [
        frame[column].astype(object).fillna("").astype(str) for column in (keys.CLASS, keys.NAME) if column in frame
    ]
    chosen = np.zeros(len(frame), bool)
    for column in texts:
        chosen |= column.isin(asked).to_numpy()
    known = sorted({value for column in texts for value in column} - {""})
    missing = [name for name in asked if name not in known]
    if missing:
        hint = did_you_mean(missing, known)
        msg = (
            f"Shapes {key!r} have no class or name {quote(missing)} (found: {quote(known)}).{hint} Choose among these."
        )
        raise ValueError(msg)
    return frame[chosen]


def union_polygons(frame: GeoDataFrame, matrix: NDArray[np.float64], key: str, argument: str) -> Any:
    """The union of all polygons of an element, mapped by a ``(3, 3)`` matrix; invalid ones are repaired."""
    kinds = set(frame.geometry.geom_type)
    if not kinds <= {"Polygon", "MultiPolygon"}:
        msg = f"Shapes {key!r} hold {quote(sorted(kinds))}; polygons are needed. Give others as `{argument}`."
        raise ValueError(msg)
    mapped = shapely.transform(frame.geometry.to_numpy(), lambda xy: apply_affine(matrix, xy))
    return shapely.union_all(polygon_parts(shapely.make_valid(mapped)))


def polygon_parts(geometries: Any) -> Any:
    """The polygons in valid geometries; what repairs leave as lines and points is dropped."""
    parts = shapely.get_parts(shapely.get_parts(geometries))  # repairs may nest polygons
    return parts[shapely.get_dimensions(parts) == 2]
