"""Find tissue on an image: stained and textured areas, as a mask and as polygons. No SpatialData."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._geometry import apply_affine
from .thumbnails import thumbnail

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray

    from .._slides.levels import Level

    Float = NDArray[np.float32]
    Mask = NDArray[np.bool_]

RESOLUTION_UM: Final = 8.0
"""µm per pixel at which tissue is found."""
MIN_AREA_UM2: Final = 20_000.0
"""Smallest piece."""
MIN_HOLE_UM2: Final = 100_000.0
"""Smallest hole; smaller ones are mostly pale fat."""
SMOOTH_UM: Final = 16.0
"""Standard deviation of the Gaussian over which stain and texture are averaged."""
EROSION: Final = 2.5
"""Erosion of the opening, whose dilation is 1 (times `SMOOTH_UM`): averaging adds a margin of about 1.5."""
MIN_THRESHOLD: Final = 0.02
"""Lower bound of the threshold, above noise and haze of a blank slide (optical density)."""
MIN_SCORE: Final = 0.005
"""Lower bound of stain and texture (optical density)."""
EMPTY: Final = 0.05
"""Pixels that differ from the background by less than this in every channel are empty (optical density)."""
BLACK: Final = 10.0
"""Pixels darker than this in every channel (of 255) are masked out or ink."""
NEUTRAL: Final = 0.15
"""Fraction of the mean optical density that is subtracted from the stain, so that grey shadows and dots have none."""
PEN_RATIO: Final = 1.2
"""Ratio of red to green density above which a pixel is ink: haematoxylin and eosin absorb green the most."""
PEN_DENSITY: Final = 0.1
"""Optical density in red above which the ratio is tested."""
PEN_WIDTH_PX: Final = 3
"""Ink is at least this wide; single blue nuclei are not."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TissueMask:
    """Where tissue was found, and by which threshold."""

    mask: Mask
    """``(y, x)``."""
    background: tuple[float, float, float]
    """RGB of the empty slide, in [0, 255]."""
    threshold: float
    """Geometric mean of stain and texture (optical density) from which on a pixel is tissue."""


def found_polygons(
    levels: tuple[Level, ...],
    um_per_px: float,
    image_key: str,
    *,
    resolution_um: float = RESOLUTION_UM,
    min_area_um2: float = MIN_AREA_UM2,
    min_hole_um2: float = MIN_HOLE_UM2,
) -> tuple[GeoDataFrame, TissueMask]:
    """Tissue as polygons in full-resolution pixels with ``area_um2``, perhaps none, and the mask they come from."""
    small = thumbnail(levels, um_per_px, resolution_um, image_key)
    found = find_tissue(small.rgb, small.um_per_px, min_area_um2, min_hole_um2)
    (y, x), (top, left) = small.step, small.origin
    outlines = mask_outlines(found.mask, np.array([[x, 0, left], [0, y, top], [0, 0, 1]]))
    return pieces(outlines, levels[0].pixels.shape[1:], um_per_px, min_area_um2, min_hole_um2), found


def find_tissue(rgb: Float, um_per_px: float, min_area_um2: float, min_hole_um2: float) -> TissueMask:
    """Separate tissue from background, haze, ink and dots on an image ``(y, x, 3)`` in [0, 255]."""
    from skimage.filters import threshold_otsu

    background = background_colour(rgb)
    density = np.log((background + 1) / (rgb + 1))
    visible = rgb.max(axis=2) >= BLACK
    density[~visible] = 0
    empty = visible & (np.abs(density).max(axis=2) < EMPTY)
    score = np.sqrt(_smooth(_stain(density), um_per_px) * _texture(density[..., 1], um_per_px, empty))
    log_score = np.log(np.maximum(score, MIN_SCORE))
    otsu = float(np.exp(threshold_otsu(log_score))) if np.ptp(log_score) > 0 else MIN_THRESHOLD  # type: ignore[no-untyped-call]
    threshold = max(otsu, MIN_THRESHOLD)
    mask = _open(score > threshold, SMOOTH_UM / um_per_px)
    mask = _without_small(mask, min_area_um2 / um_per_px**2)
    mask = ~_without_small(~mask, min_hole_um2 / um_per_px**2)
    return TissueMask(mask=mask, background=tuple(background.astype(float).tolist()), threshold=threshold)


def background_colour(rgb: Float) -> Float:
    """Median colour of the pixels around the most frequent brightness among the light ones."""
    from scipy.ndimage import gaussian_filter1d
    from skimage.filters import threshold_otsu

    visible = rgb[rgb.max(axis=2) >= BLACK]
    if not len(visible):
        return np.full(3, 255, np.float32)
    brightness = visible.mean(axis=1)
    light = brightness[brightness >= threshold_otsu(brightness)] if np.ptp(brightness) > 0 else brightness  # type: ignore[no-untyped-call]
    counts, edges = np.histogram(light, 256, (0, 256))
    mode = edges[np.argmax(gaussian_filter1d(counts.astype(np.float64), 2))] + 0.5
    near = np.abs(brightness - mode)
    median: Float = np.median(visible[near <= max(3.0, float(near.min()))], axis=0).astype(np.float32)
    return median


def _stain(density: Float) -> Float:
    """Density in green beyond that of something grey; 0 where there is ink."""
    red, green, blue = (density[..., c] for c in range(3))
    stain = np.maximum(green - np.minimum(red, blue) - NEUTRAL * np.maximum(density.mean(axis=2), 0), 0)
    stain[ink_mask(density)] = 0
    return stain


def ink_mask(density: Float) -> Mask:
    """Where pens drew, and a pixel around: more red is absorbed than by haematoxylin, over three pixels or more."""
    from scipy.ndimage import binary_dilation, binary_opening

    red, green = density[..., 0], density[..., 1]
    square = np.ones((*(1 for _ in red.shape[:-2]), PEN_WIDTH_PX, PEN_WIDTH_PX), bool)
    pen = binary_opening((red > PEN_DENSITY) & (red > PEN_RATIO * green), square)
    wider: Mask = binary_dilation(pen, square)
    return wider


def _texture(density: Float, um_per_px: float, empty: Mask) -> Float:
    """Standard deviation within a Gaussian window, less twice the noise: the lower quartile over empty pixels."""
    variance = _smooth((density - _smooth(density, um_per_px)) ** 2, um_per_px)
    deviation = np.sqrt(np.maximum(variance, 0))
    noise = np.quantile(deviation[empty], 0.25) if empty.any() else 0.0
    texture: Float = np.maximum(deviation - 2 * noise, 0)
    return texture


def _smooth(values: Float, um_per_px: float) -> Float:
    from scipy.ndimage import gaussian_filter

    smooth: Float = gaussian_filter(values, max(SMOOTH_UM / um_per_px, 1.0))
    return smooth


def _open(mask: Mask, margin_px: float) -> Mask:
    """Morphological opening: erode by 2.5 margins, dilate by one; the edge of the image does not erode."""
    from scipy.ndimage import distance_transform_edt

    if mask.all() or not mask.any():
        return mask
    core: Mask = distance_transform_edt(mask) > EROSION * margin_px
    if not core.any():
        return core
    opened: Mask = distance_transform_edt(~core) <= margin_px
    return opened


def _without_small(mask: Mask, n_px: float) -> Mask:
    """Drop pieces of fewer pixels than ``n_px``."""
    from scipy.ndimage import label

    pieces, _ = label(mask)
    large = np.bincount(pieces.ravel()) >= n_px
    large[0] = False
    kept: Mask = large[pieces]
    return kept


def mask_outlines(mask: Mask, to_px: NDArray[np.float64]) -> list[Any]:
    """A polygon for each connected piece of a mask, with holes; ``to_px`` ``(3, 3)`` maps its pixels to the image."""
    import shapely
    from scipy.ndimage import find_objects, label

    numbered, _ = label(mask)
    outlines = [
        _outline(numbered[where] == i, (where[0].start, where[1].start))
        for i, where in enumerate(find_objects(numbered), 1)
    ]
    return [shapely.transform(outline, lambda xy: apply_affine(to_px, xy)) for outline in outlines]


def _outline(piece: Mask, corner: tuple[int, int]) -> Any:
    """Polygon ``(x, y)`` around a connected piece, along the edges of its pixels with corners cut."""
    from shapely.geometry import Polygon
    from skimage.measure import find_contours

    rings = find_contours(np.pad(piece, 1).astype(np.float32), 0.5, fully_connected="low")  # type: ignore[no-untyped-call]
    rings = [(ring - 0.5 + corner)[:, ::-1] for ring in rings]
    rings.sort(key=lambda ring: -Polygon(ring).area)
    return Polygon(rings[0], rings[1:]).simplify(0.5)


def pieces(
    outlines: list[Any], size: tuple[int, int], um_per_px: float, min_area_um2: float, min_hole_um2: float
) -> GeoDataFrame:
    """A polygon with ``area_um2`` for each piece in the image, the largest first, without small pieces and holes."""
    from geopandas import GeoDataFrame, GeoSeries
    from shapely.geometry import box

    inside = GeoSeries(outlines).intersection(box(0, 0, size[1], size[0])).explode(ignore_index=True)
    inside = inside[inside.geom_type == "Polygon"].map(lambda piece: _fill_holes(piece, min_hole_um2 / um_per_px**2))
    frame = GeoDataFrame({"geometry": inside, "area_um2": inside.area * um_per_px**2})
    frame = frame[frame["area_um2"] >= min_area_um2]
    return frame.sort_values("area_um2", ascending=False, kind="stable").reset_index(drop=True)


def _fill_holes(piece: Any, min_area: float) -> Any:
    """A polygon without its holes of smaller area."""
    from shapely.geometry import Polygon

    return Polygon(piece.exterior, [ring for ring in piece.interiors if Polygon(ring).area >= min_area])
