"""Features of GeoJSON: outlines and what is said of them. No SpatialData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import shapely
from shapely.geometry import shape

from . import _errors as check
from ._platforms import parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


MALFORMED: Final = (
    AttributeError, LookupError, OverflowError, TypeError, ValueError, shapely.errors.ShapelyError,
)  # fmt: skip
"""What numpy and shapely raise for coordinates that are none."""


def read_features(path: Path, what: str) -> list[dict[str, Any]]:
    """The features of a file: of a collection, of a list, or the only one."""
    content = parse_json(path, what)
    found = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(found, list) or not all(isinstance(each, dict) and "geometry" in each for each in found):
        check.refuse_unreadable(path, what, "it holds no GeoJSON features, which have 'geometry' and 'properties'")
    return found


def outlines(features: list[dict[str, Any]], path: Path, what: str) -> NDArray[Any]:
    """``(n,)`` the geometry of each feature in two dimensions, None where it has none."""
    found = np.full(len(features), None, object)
    rings, of_ring = [], []
    try:
        for i, geometry in enumerate(each["geometry"] for each in features):
            if geometry is None:
                continue
            if geometry["type"] == "Polygon" and len(geometry["coordinates"]) == 1:  # nearly all: together, for speed
                rings.append(np.asarray(geometry["coordinates"][0], np.float64)[:, :2])
                of_ring.append(i)
            else:
                found[i] = shapely.force_2d(shape(geometry))
        if rings:
            index = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
            found[of_ring] = shapely.polygons(shapely.linearrings(np.concatenate(rings), indices=index))
    except MALFORMED as reason:
        bad = next((i for i, each in enumerate(features) if not _has_shape(each)), None)
        which = "a geometry" if bad is None else f"the geometry of feature {bad + 1} of {len(features)}"
        check.refuse_unreadable(path, what, f"{which} is not valid GeoJSON ({reason!r})")
    return found


def _has_shape(feature: dict[str, Any]) -> bool:
    """Whether the geometry of a feature can be read."""
    try:
        shapely.force_2d(shape(feature["geometry"])) if feature["geometry"] is not None else None
    except MALFORMED:
        return False
    return True
