"""Find tissue on an image: stained and textured areas, as polygons.

The lower half is arrays in, arrays out; only `tissue`, `_polygons` and what they call first know SpatialData.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import _keys as keys
from .._checks import files as check_files
from .._checks import slides as check_slides
from .._checks import tissue as check
from .._slides import pyramid, resolution

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides import Level

    Float = NDArray[np.float32]
    Mask = NDArray[np.bool_]

METHOD: Final = "otsu of log(stain x texture)"
STRIP_ROWS: Final = 2048
"""Rows decoded at a time, about."""
SMOOTH_UM: Final = 16.0
"""Standard deviation of the Gaussian over which stain and texture are averaged."""
TAKE_OFF: Final = 2.5
"""What the opening takes off, where it puts back 1: averaging adds a margin of about 1.5 (all times `SMOOTH_UM`)."""
FAINTEST: Final = 0.02
"""The least threshold: what noise and haze of a blank slide do not reach (optical density)."""
NOTHING: Final = 0.005
"""Stain and texture below this count as none (optical density)."""
EMPTY: Final = 0.05
"""Pixels that differ from the background by less than this in every channel are empty (optical density)."""
BLACK: Final = 10.0
"""Pixels darker than this in every channel (of 255) are masked out or ink."""
NEUTRAL: Final = 0.15
"""Part of the mean optical density that is taken off the stain, so that grey shadows and dots leave none."""
PEN_RATIO: Final = 1.2
"""Red absorbed for green absorbed, above which a pixel is ink: haematoxylin and eosin absorb green the most."""
PEN_DENSITY: Final = 0.1
"""Optical density in red from which on the ratio is looked at."""
PEN_WIDTH_PX: Final = 3
"""Ink is at least this wide; single blue nuclei are not."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Thumbnail:
    """A small image and where its pixels are."""

    rgb: Float
    """``(y, x, 3)`` in [0, 255]."""
    step: tuple[float, float]
    """Full-resolution pixels a pixel, along y and x."""
    um_per_px: float
    """µm a pixel, the mean of y and x."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Found:
    """What was called tissue, and by which figures."""

    mask: Mask
    """``(y, x)``."""
    background: tuple[float, float, float]
    """RGB of the empty slide, in [0, 255]."""
    threshold: float
    """Geometric mean of stain and texture (optical density) from which on a pixel is tissue."""


def tissue(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    um_per_px: float | None = None,
    resolution_um: float = 8.0,
    min_area_um2: float = 20_000.0,
    key_added: str = keys.TISSUE,
) -> None:
    """Find tissue on an image stained with haematoxylin and eosin.

    Backgrounds may be white, grey or hazed with dye; ink of blue, green and black pens, grey fiducial dots, dust and
    areas masked in black are left out. The same image always gives the same polygons.

    Parameters
    ----------
    sdata
        The object.
    image_key
        The image; by default the only one there is.
    um_per_px
        Resolution in µm per full-resolution pixel, if it is not recorded in the object.
    resolution_um
        µm per pixel to look at: the coarsest level that is at least as fine is read, and averaged down to about this.
    min_area_um2
        Area in µm² of the smallest piece that is kept, and of the smallest hole that is not filled.
    key_added
        Name of the polygons.

    Returns
    -------
    Nothing. Writes ``sdata.shapes[key_added]``: a polygon for each piece of tissue, the largest first, with its holes,
    in full-resolution pixels of the image and with the image's transformations; the column ``area_um2`` is its area.
    ``sdata.attrs["stpredict"]["tissue"][key_added]`` keeps parameters, background colour and threshold.

    Raises
    ------
    ValueError
        If there is no tissue, or ``key_added`` names an element that this function did not make.

    Notes
    -----
    Pixels become optical densities (Ruifrok and Johnston 2001) against the slide's own background: the median colour
    around the most frequent brightness among the light pixels. *Stain* is how much more green is absorbed than the
    less absorbed of red and blue, since both dyes absorb green the most and ink, shadow and dust do not; where red is
    absorbed 1.2 times as much as green, over three pixels, there is pen. *Texture* is the standard deviation of the
    green density: haze has stain but no texture. Both are averaged over a Gaussian of 16 µm. The threshold is that of
    Otsu (1979) on the logarithm of their geometric mean, and 0.02 at least, so that a blank slide has no tissue.
    An opening takes off the margin that averaging adds, and with it what is narrower than about 40 µm; then small
    pieces go and small holes are filled.

    The background must be seen: on an image that is tissue from edge to edge a part of it is taken for background. A
    navy pen, as violet as haematoxylin, is not told from nuclei. Levels whose odd edge rows were dropped may be off by
    less than one pixel of the level that is read.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.pp.tissue(sdata)
    >>> list(sdata["tissue"].columns)
    ['geometry', 'area_um2']
    """
    check_slides.is_spatialdata(sdata)
    check_files.positive("resolution_um", resolution_um)
    check_files.positive("min_area_um2", min_area_um2)
    image_key = _image_key(sdata, image_key)
    ours = sdata.attrs.get(keys.ATTRS, {})
    made: dict[str, Any] = ours.get(keys.TISSUE, {})
    check.may_write(key_added, [name for _, name, _ in sdata.gen_elements()], list(made))
    um_per_px = resolution(sdata, image_key, um_per_px)
    levels = pyramid(sdata.images[image_key])
    check_slides.colour_image(levels[0].pixels.shape, image_key)
    small = thumbnail(levels, um_per_px, resolution_um, image_key)
    found = find_tissue(small.rgb, small.um_per_px, min_area_um2)
    polygons = _polygons(found.mask, small.step, levels[0].pixels.shape[1:], um_per_px, min_area_um2)
    check.found(len(polygons), image_key, min_area_um2, um_per_px)
    _write(sdata, image_key, key_added, polygons)
    made_here = {
        "method": METHOD,
        "image_key": image_key,
        "um_per_px": um_per_px,
        "resolution_um": float(resolution_um),
        "min_area_um2": float(min_area_um2),
        "background": list(found.background),
        "threshold": found.threshold,
    }
    sdata.attrs[keys.ATTRS] = {**ours, keys.TISSUE: {**made, key_added: made_here}}


def _image_key(sdata: SpatialData, image_key: str | None) -> str:
    names = list(sdata.images)
    if image_key is None:
        check.one_image(names)
        image_key = str(names[0])
    check_slides.has_image(names, image_key)
    return image_key


def _write(sdata: SpatialData, image_key: str, key_added: str, polygons: GeoDataFrame) -> None:
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Affine, Identity, get_transformation

    transformations = {}
    for system, transformation in get_transformation(sdata.images[image_key], get_all=True).items():
        matrix = transformation.to_affine_matrix(("x", "y"), ("x", "y"))
        same = np.array_equal(matrix, np.eye(3))
        transformations[system] = Identity() if same else Affine(matrix, ("x", "y"), ("x", "y"))
    element = ShapesModel.parse(polygons, transformations=transformations)
    if key_added in sdata.shapes:
        del sdata.shapes[key_added]
    sdata.shapes[key_added] = element


def thumbnail(levels: tuple[Level, ...], um_per_px: float, resolution_um: float, image_key: str) -> Thumbnail:
    """Average an image down to about ``resolution_um``, and never beyond it.

    Parameters
    ----------
    levels
        The image pyramid, finest first.
    um_per_px
        µm per full-resolution pixel.
    resolution_um
        µm per pixel asked for.
    image_key
        Name of the image, for messages.

    Returns
    -------
    Means of whole blocks of pixels; the last row and column have what is left of the image.
    """
    from .._pixels import _gain, _to_rgb, best_level

    level = levels[best_level(levels, resolution_um / um_per_px)]
    k = max(1, int(resolution_um / um_per_px / max(level.factor) * (1 + 1e-6)))
    gain = _gain(levels, image_key)
    height = level.pixels.shape[1]
    rows = max(1, STRIP_ROWS // k) * k
    strips = []
    for y in range(0, height, rows):
        rgb, _ = _to_rgb(np.asarray(level.pixels[:, y : y + rows]), gain)
        strips.append(_block_means(rgb, k))
    step = (k * level.factor[0], k * level.factor[1])
    return Thumbnail(
        rgb=np.concatenate(strips, axis=1).transpose(1, 2, 0), step=step, um_per_px=float(np.mean(step)) * um_per_px
    )


def _block_means(pixels: NDArray[np.uint8], k: int) -> Float:
    """Means over blocks of ``k`` by ``k``; at the end of an axis over what is left."""
    if k == 1:
        return pixels.astype(np.float32)
    height, width = pixels.shape[1:]
    y, x = np.arange(0, height, k), np.arange(0, width, k)
    total = np.add.reduceat(np.add.reduceat(pixels, y, axis=1, dtype=np.uint32), x, axis=2)
    n = np.minimum(k, height - y)[:, None] * np.minimum(k, width - x)
    means: Float = (total / n).astype(np.float32)
    return means


def find_tissue(rgb: Float, um_per_px: float, min_area_um2: float) -> Found:
    """Tell tissue from background, haze, ink and dots.

    Parameters
    ----------
    rgb
        ``(y, x, 3)`` in [0, 255].
    um_per_px
        µm per pixel of ``rgb``.
    min_area_um2
        Area of the smallest piece and of the smallest hole.

    Returns
    -------
    The mask, the background's colour and the threshold.
    """
    from skimage.filters import threshold_otsu

    background = _background(rgb)
    density = np.log((background + 1) / (rgb + 1))
    seen = rgb.max(axis=2) >= BLACK
    density[~seen] = 0
    empty = seen & (np.abs(density).max(axis=2) < EMPTY)
    score = np.sqrt(_smooth(_stain(density), um_per_px) * _texture(density[..., 1], um_per_px, empty))
    log_score = np.log(np.maximum(score, NOTHING))
    otsu = float(np.exp(threshold_otsu(log_score))) if np.ptp(log_score) > 0 else FAINTEST  # type: ignore[no-untyped-call]
    threshold = max(otsu, FAINTEST)
    mask = _opened(score > threshold, SMOOTH_UM / um_per_px)
    n_px = min_area_um2 / um_per_px**2
    mask = ~_without_small(~_without_small(mask, n_px), n_px)
    return Found(mask=mask, background=tuple(background.astype(float).tolist()), threshold=threshold)


def _background(rgb: Float) -> Float:
    """Median colour of the pixels around the most frequent brightness among the light ones."""
    from scipy.ndimage import gaussian_filter1d
    from skimage.filters import threshold_otsu

    seen = rgb[rgb.max(axis=2) >= BLACK]
    if not len(seen):
        return np.full(3, 255, np.float32)
    brightness = seen.mean(axis=1)
    light = brightness[brightness >= threshold_otsu(brightness)] if np.ptp(brightness) > 0 else brightness  # type: ignore[no-untyped-call]
    counts, edges = np.histogram(light, 256, (0, 256))
    mode = edges[np.argmax(gaussian_filter1d(counts.astype(np.float64), 2))] + 0.5
    near = np.abs(brightness - mode)
    median: Float = np.median(seen[near <= max(3.0, float(near.min()))], axis=0).astype(np.float32)
    return median


def _stain(density: Float) -> Float:
    """How much more green is absorbed than by something grey; none where there is ink."""
    from scipy.ndimage import binary_dilation, binary_opening

    red, green, blue = (density[..., c] for c in range(3))
    stain = np.maximum(green - np.minimum(red, blue) - NEUTRAL * np.maximum(density.mean(axis=2), 0), 0)
    square = np.ones((PEN_WIDTH_PX, PEN_WIDTH_PX), bool)
    pen = binary_opening((red > PEN_DENSITY) & (red > PEN_RATIO * green), square)
    stain[binary_dilation(pen, square)] = 0
    return stain


def _texture(density: Float, um_per_px: float, empty: Mask) -> Float:
    """Standard deviation within a Gaussian window, less twice that of the calm quarter of the empty pixels: noise."""
    variance = _smooth((density - _smooth(density, um_per_px)) ** 2, um_per_px)
    deviation = np.sqrt(np.maximum(variance, 0))
    noise = np.quantile(deviation[empty], 0.25) if empty.any() else 0.0
    texture: Float = np.maximum(deviation - 2 * noise, 0)
    return texture


def _smooth(values: Float, um_per_px: float) -> Float:
    from scipy.ndimage import gaussian_filter

    smooth: Float = gaussian_filter(values, max(SMOOTH_UM / um_per_px, 1.0))
    return smooth


def _opened(mask: Mask, margin_px: float) -> Mask:
    """Take off the margin two and a half times, put it back once; the edge of the image takes nothing off."""
    from scipy.ndimage import distance_transform_edt

    if mask.all() or not mask.any():
        return mask
    core: Mask = distance_transform_edt(mask) > TAKE_OFF * margin_px
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


def _polygons(
    mask: Mask, step: tuple[float, float], size: tuple[int, int], um_per_px: float, min_area_um2: float
) -> GeoDataFrame:
    """One polygon a piece, in full-resolution pixels and within the image, the largest first."""
    from geopandas import GeoDataFrame, GeoSeries
    from scipy.ndimage import find_objects, label
    from shapely.geometry import box

    pieces, _ = label(mask)
    outlines = [
        _outline(pieces[where] == i, (where[0].start, where[1].start), step)
        for i, where in enumerate(find_objects(pieces), 1)
    ]
    inside = GeoSeries(outlines).intersection(box(0, 0, size[1], size[0])).explode(ignore_index=True)
    frame = GeoDataFrame({"geometry": inside, "area_um2": inside.area * um_per_px**2})
    frame = frame[(frame.geom_type == "Polygon") & (frame["area_um2"] >= min_area_um2)]
    return frame.sort_values("area_um2", ascending=False, kind="stable").reset_index(drop=True)


def _outline(piece: Mask, corner: tuple[int, int], step: tuple[float, float]) -> Any:
    """Polygon around a connected piece, along the edges of its pixels with corners cut."""
    from shapely.geometry import Polygon
    from skimage.measure import find_contours

    rings = find_contours(np.pad(piece, 1).astype(np.float32), 0.5, fully_connected="low")  # type: ignore[no-untyped-call]
    rings = [((ring - 0.5 + corner) * step)[:, ::-1] for ring in rings]
    rings.sort(key=lambda ring: -Polygon(ring).area)
    return Polygon(rings[0], rings[1:]).simplify(0.5 * min(step))
