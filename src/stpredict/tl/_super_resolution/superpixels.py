"""Superpixels: their places, the spot each belongs to, and the means of spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from geopandas import GeoDataFrame
from scipy import sparse

from ..._checks.slides import quote
from ..._geometry import apply_affine, spot_pitch
from ..._slides.elements import affine_to_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from ..._slides.slides import Slide

GAP = 0.75
"""Gaps are filled up to this many pitches from the nearest spot: beyond the farthest point of a square lattice."""
NEIGHBOURS = 4
"""Nearest spots whose correction factors a superpixel between spots averages."""
BLOCK_ROWS = 16_384


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Superpixels:
    """Squares of one slide, on a lattice that starts at the corner of its image."""

    slide: Slide
    step_px: float
    """Side of a square, and distance of centres, in full-resolution pixels."""
    xy_px: NDArray[np.float64]
    """``(m, 2)`` centres."""
    spot: NDArray[np.intp]
    """``(m,)`` spot of each square, -1 between spots."""

    def __len__(self) -> int:
        return len(self.xy_px)

    @property
    def averaging(self) -> csr_matrix:
        """``(n, m)`` matrix that averages superpixels to spots."""
        inside = np.flatnonzero(self.spot >= 0)
        share = 1 / np.bincount(self.spot[inside], minlength=len(self.slide.xy_px))[self.spot[inside]]
        return sparse.csr_matrix((share, (self.spot[inside], inside)), shape=(len(self.slide.xy_px), len(self)))

    def spot_means(self, values: Callable[[slice], NDArray[np.float64]], width: int) -> NDArray[np.float64]:
        """Means over spots ``(n, width)`` of what a function gives for some rows of superpixels."""
        averaging, means = self.averaging.tocsc(), np.zeros((len(self.slide.xy_px), width))
        for rows in row_blocks(len(self)):
            means += averaging[:, rows] @ values(rows)
        return means

    @property
    def corrections(self) -> csr_matrix:
        """``(m, n)`` matrix from correction factors of spots to those of superpixels.

        Inside a spot the factor of the spot; between spots the mean over the nearest spots, weighted by the inverse
        squared distance to their edge, so that factors change continuously at the edge of a spot.
        """
        from scipy.spatial import cKDTree

        radius = self.slide.diameter_um / 2 / self.slide.um_per_px
        n_near = min(NEIGHBOURS, len(self.slide.xy_px))
        distance, near = cKDTree(self.slide.xy_px).query(self.xy_px, k=n_near)
        weight = 1 / np.maximum(distance - radius, self.step_px / 2) ** 2
        inside = self.spot >= 0
        near[inside], weight[inside] = self.spot[inside, None], 1.0
        weight /= weight.sum(axis=1, keepdims=True)
        rows = np.repeat(np.arange(len(self)), n_near)
        return sparse.csr_matrix((weight.ravel(), (rows, near.ravel())), shape=(len(self), len(self.slide.xy_px)))


def superpixels(slide: Slide, step_um: float, tissue: Any = None) -> Superpixels:
    """Superpixels over the spots and the gaps between them, row by row; gaps only within ``tissue`` (in pixels)."""
    from scipy.spatial import cKDTree

    step = step_um / slide.um_per_px
    tree, reach = cKDTree(slide.xy_px), GAP * spot_pitch(slide.xy_px)
    low, high = slide.xy_px.min(axis=0) - reach, slide.xy_px.max(axis=0) + reach
    columns, rows = (np.arange(np.floor(a / step), np.ceil(b / step)) for a, b in zip(low, high, strict=True))
    found, spots = [], []
    for row in rows:
        xy = np.column_stack([columns + 0.5, np.full(len(columns), row + 0.5)]) * step
        spot = _spot_of_point(slide, xy, tree)
        gap = tree.query(xy, distance_upper_bound=reach)[0] < np.inf
        if tissue is not None:
            gap &= shapely.contains_xy(tissue, xy)
        kept = (spot >= 0) | gap
        found.append(xy[kept])
        spots.append(spot[kept])
    spot = np.concatenate(spots)
    empty = slide.obs_names[np.bincount(spot[spot >= 0], minlength=len(slide.xy_px)) == 0].tolist()
    if empty:
        msg = (
            f"{len(empty)} of {len(slide.xy_px)} spots of {slide.name!r} hold no superpixel of {step_um:g} µm "
            f"({quote(empty)}): they are smaller than others, or lie on one another. Give a "
            "smaller `step_um` to `stp.tl.super_resolve`."
        )
        raise ValueError(msg)
    return Superpixels(slide=slide, step_px=step, xy_px=np.concatenate(found), spot=spot)


def _spot_of_point(slide: Slide, xy: NDArray[np.float64], tree: Any) -> NDArray[np.intp]:
    """Spot that each point lies in, or -1: circles by their median radius, polygons by their outline."""
    outlines = _outlines(slide)
    if outlines is None:
        distance, spot = tree.query(xy)
        return np.where(distance <= slide.diameter_um / 2 / slide.um_per_px, spot, -1)
    spot, point = shapely.STRtree(shapely.points(xy)).query(outlines, predicate="intersects")
    distance = np.linalg.norm(slide.xy_px[spot] - xy[point], axis=1)
    owner = np.full(len(xy), -1, np.intp)
    nearest_last = np.argsort(-distance, kind="stable")
    owner[point[nearest_last]] = spot[nearest_last]
    return owner


def _outlines(slide: Slide) -> NDArray[Any] | None:
    """Polygons of the spots in pixels of the image; None if spots are circles or labels."""
    element = slide.source[slide.shapes_key]
    if not hasattr(element, "geometry") or "radius" in element.columns:
        return None
    to_px = affine_to_image(slide.source, slide.shapes_key, slide.image_key, slide.coordinate_system, "shapes_key")
    polygons = element.geometry.loc[slide.instances].to_numpy()
    moved: NDArray[Any] = shapely.transform(polygons, lambda xy: apply_affine(to_px, xy))
    return moved


def interpolation_grid(xy_px: NDArray[np.float64], spacing_px: float) -> tuple[NDArray[np.float64], csr_matrix]:
    """Nodes of a coarser grid around the points, ``(c, 2)``, and bilinear interpolation weights, ``(m, c)``."""
    cell, share = np.divmod(xy_px / spacing_px, 1.0)
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    at = (cell - cell.min(axis=0))[:, None].astype(np.int64) + corners  # (m, 4, 2)
    weight = np.where(corners, share[:, None], 1 - share[:, None]).prod(axis=-1)  # (m, 4)
    width = int(at[..., 0].max()) + 1
    names, node = np.unique(at[..., 1] * width + at[..., 0], return_inverse=True)
    xy = (np.column_stack([names % width, names // width]) + cell.min(axis=0)) * spacing_px
    rows = np.repeat(np.arange(len(xy_px)), 4)
    return xy, sparse.csr_matrix((weight.ravel(), (rows, node.ravel())), shape=(len(xy_px), len(xy)))


def row_blocks(n: int) -> Iterator[slice]:
    """Slices of ``range(n)``."""
    return (slice(start, min(start + BLOCK_ROWS, n)) for start in range(0, n, BLOCK_ROWS))


def match_spot_means(values: NDArray[np.float32], superpixels: Superpixels, means: NDArray[np.float64]) -> None:
    """Scale positive linear values in place, so that their means over spots are ``means``."""
    corrections = superpixels.corrections
    factors = means / superpixels.spot_means(lambda rows: values[rows].astype(np.float64), means.shape[1])
    for part in row_blocks(len(values)):
        values[part] *= corrections[part] @ factors


def squares(superpixels: Superpixels) -> GeoDataFrame:
    """Squares of the superpixels as polygons in pixels of the image."""
    (x, y), half = superpixels.xy_px.T, superpixels.step_px / 2
    return GeoDataFrame(geometry=shapely.box(x - half, y - half, x + half, y + half), index=np.arange(len(superpixels)))
