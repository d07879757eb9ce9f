"""Fraction of the area of each spot on tissue, exact, from the few edges that pass through a spot. Arrays only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .lattice import Outline

    Float = NDArray[np.float64]

BATCH = 1 << 15
"""Number of spots whose edges are gathered at a time."""
OFFSET = np.array([1.3e-8, 0.7e-8])
"""Centres are moved by this many diameters, so that none lies on an edge or a corner."""


def tissue_fraction(xy: Float, diameter: float, outline: Outline, tissue: Any) -> Float:
    """``(n,)`` fractions, exact to about 1e-7, of the spots at ``xy`` ``(n, 2)`` on one valid (multi)polygon.

    Shoelace formula around each centre: an edge contributes its triangle where it lies inside of the spot, and the
    sector that it sweeps where it lies outside. All edges together turn once around a centre on tissue and not at all
    around another, so only edges inside of a spot are visited: the others sweep the rest of the turn.
    """
    # shapely.intersection with the tissue visits all of its corners for each spot, and knows no circles
    xy = xy + OFFSET * diameter
    starts, ends = _edges(tissue)
    tree = shapely.STRtree(shapely.linestrings(np.stack([starts, ends], axis=1)))
    shapely.prepare(tissue)
    fraction: Float = shapely.contains_xy(tissue, xy).astype(np.float64)
    for first in range(0, len(xy), BATCH):
        some = xy[first : first + BATCH]
        low, high = (some + side * diameter / 2 for side in (-1, 1))
        spot, edge = tree.query(shapely.box(*low.T, *high.T))
        area = _edge_area(
            (starts[edge] - some[spot]) / (diameter / 2), (ends[edge] - some[spot]) / (diameter / 2), outline
        )
        fraction[first : first + BATCH] += np.bincount(spot, area, minlength=len(some))
    return np.clip(fraction, 0, 1)


def _edges(tissue: Any) -> tuple[Float, Float]:
    """Start and end ``(m, 2)`` of every edge, tissue on its left."""
    from shapely.geometry.polygon import orient

    polygons = [orient(polygon) for polygon in shapely.get_parts(tissue)]
    corners, ring = shapely.get_coordinates(shapely.get_rings(polygons), return_index=True)
    follows = ring[:-1] == ring[1:]
    return corners[:-1][follows], corners[1:][follows]


def _edge_area(a: Float, b: Float, outline: Outline) -> Float:
    """Area, in spot areas, that an edge adds to a spot of half-width 1: its triangle less the sector it sweeps."""
    first, last = _inside_circle(a, b) if outline == "circle" else _inside_square(a, b)
    step = b - a
    p, q = a + first[:, None] * step, a + last[:, None] * step
    cross = p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]
    if outline == "circle":
        sector, whole = np.arctan2(cross, (p * q).sum(axis=1)) / 2, np.pi
    else:
        sector, whole = _square_sector(q) - _square_sector(p), 4.0
        sector += 4.0 * ((cross > 0) & (sector < 0)) - 4.0 * ((cross < 0) & (sector > 0))
    area: Float = np.where(last > first, cross / 2 - sector, 0) / whole
    return area


def _inside_circle(a: Float, b: Float) -> tuple[Float, Float]:
    """Where an edge enters and leaves the unit circle, as fractions of its length."""
    step = b - a
    square, half = (step**2).sum(axis=1), (a * step).sum(axis=1)
    root = half**2 - square * ((a**2).sum(axis=1) - 1)
    reach, square = np.sqrt(np.maximum(root, 0)), np.maximum(square, 1e-300)
    first, last = np.maximum((-half - reach) / square, 0), np.minimum((-half + reach) / square, 1)
    return first, np.where(root > 0, last, first)


def _inside_square(a: Float, b: Float) -> tuple[Float, Float]:
    """Where an edge enters and leaves the square from -1 to 1, as fractions of its length."""
    step = b - a
    away = np.where(np.abs(step) < 1e-300, 1e-300, step)
    one, other = (-1 - a) / away, (1 - a) / away
    first = np.maximum(np.minimum(one, other).max(axis=1), 0)
    last = np.minimum(np.maximum(one, other).min(axis=1), 1)
    return first, last


def _square_sector(xy: Float) -> Float:
    """Area of the square from -1 to 1 between the direction of negative x and that of a point, from 0 to 4."""
    x, y = xy.T
    steep = np.abs(y) > np.abs(x)
    with np.errstate(invalid="ignore", divide="ignore"):
        along = np.where(steep, -x / y, y / x) / 2  # area of the triangle from the middle of the side
    quarter = np.where(steep, np.where(y > 0, 3.0, 1.0), np.where(x > 0, 2.0, np.where(y >= 0, 4.0, 0.0)))
    area: Float = quarter + np.nan_to_num(along)
    return area
