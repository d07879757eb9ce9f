"""Flag parts of an image on which no prediction can be relied: blurred, folded, inked, empty. Pixels in strips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import shapely
from geopandas import GeoDataFrame

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from .._pixels import best_level, rgb_strips
from .._resolution import image_resolution
from .._slides import checks as check_elements
from .._slides import elements
from .._slides.levels import pyramid
from ._tissue_mask import BLACK, EMPTY, background_colour, ink_mask
from .thumbnails import STRIP_ROWS, block_means, thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides.levels import Level

    Float = NDArray[np.float32]

STEP_UM: Final = 2.0
"""µm per pixel at which windows are measured."""
COARSE_UM: Final = 8.0
"""µm per pixel at which ink and the colour of the empty slide are found, as in `pp.tissue`."""
SMOOTH_UM: Final = 16.0
"""Standard deviation of the Gaussian over which density is averaged before folds are looked for: a few nuclei."""
MIN_COVERAGE: Final = 0.05
"""Windows with a smaller share of pixels that differ from the empty slide are empty."""
MEASURABLE: Final = 0.2
"""Sharpness and folds are measured in windows of which at least this share is not empty."""
MIN_SHARPNESS: Final = 0.2
"""Below it a window is blurred. Sharp sections of HER2ST have 0.33 to 1.1; after a Gaussian of 2 µm, 0.12 to 0.17."""
MIN_DETAIL: Final = 0.02
"""Standard deviation of the Laplacian (optical density) below which there is only the rounding of 8-bit colours."""
MAX_INK: Final = 0.02
"""Share of a window with ink or black above which it is inked."""
FOLD_RATIO: Final = 1.75
"""Density relative to the slide above which a window is folded; two layers of tissue have twice that of one."""
MIN_DENSITY: Final = 0.15
"""Windows that are paler are haze, and do not count for the usual density of the slide (optical density in green)."""
FOLD_SHARE: Final = 0.1
"""Share of a window that must be so dense."""
FLAGS: Final = ("good", "blurred", "folded", "inked", "empty")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WindowMeasures:
    """Measures of each window, row by row."""

    n_columns: int
    coverage: Float
    """``(n,)`` share of pixels that differ from the empty slide."""
    sharpness: Float
    """``(n,)`` variance of the Laplacian over that at half the resolution; NaN if there is too little tissue."""
    density: Float
    """``(n,)`` median optical density in green of what is not empty; NaN if there is too little."""
    dense: Float
    """``(n,)`` density that a tenth of the window exceeds, averaged over a Gaussian; NaN if there is too little."""
    ink: Float
    """``(n,)`` share of pixels with ink, or black."""


@public
def quality(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    um_per_px: float | None = None,
    window_um: float = 200.0,
    key_added: str = keys.QUALITY,
) -> None:
    """Flag blurred, folded, inked and empty windows of an image stained with haematoxylin and eosin.

    `stp.tl.predict` copies the flag of the window in which a spot lies to ``obs["image_quality"]`` of its table.

    Parameters
    ----------
    sdata
        The object.
    image_key
        The image; by default the only one.
    um_per_px
        Resolution in µm per full-resolution pixel, if it is not recorded in the object.
    window_um
        Side of a window in µm, rounded to whole pixels.
    key_added
        Name of the windows. Only windows of an earlier call are replaced.

    Returns
    -------
    Nothing. Writes ``sdata.shapes[key_added]``: a square for each window, row by row, in full-resolution pixels of the
    image and with its transformations. The column ``flag`` is ``"empty"``, ``"inked"``, ``"folded"``, ``"blurred"``
    (the first that holds) or ``"good"``; the measures are ``coverage``, ``sharpness``, ``density_ratio`` and ``ink``.
    ``sdata.attrs["stpredict"]["quality"][key_added]`` records parameters and thresholds.

    Raises
    ------
    ValueError
        If the resolution is not known or coarser than 8 µm per pixel, or ``key_added`` names an element that this
        function did not make.

    Notes
    -----
    Windows are measured at about 2 µm per pixel, or at full resolution if that is coarser. Optical density is that
    against the empty slide, as in `stp.pp.tissue`.

    - *Coverage* is the share of pixels whose density exceeds 0.05 in a channel; below 0.05 the window is empty.
    - *Ink* is the share of pixels of 8 µm that absorb red 1.2 times as much as green, over three pixels, or are
      black; above 0.02 the window is inked. Red pens, and navy ones as violet as haematoxylin, are not recognised.
    - *Sharpness* is the variance of the Laplacian of the green density over the same at half the resolution. The
      ratio does not depend on the strength of the stain. It is 1/16 where nothing is resolved, and about 0.5 on sharp
      sections; below 0.2 the window is blurred, for which a Gaussian of 2 µm suffices. It is 0 where the Laplacian is
      within the rounding of 8-bit colours. An enlarged image is blurred everywhere.
    - *Density ratio* is the green density that a tenth of the window exceeds, averaged over 16 µm, relative to the
      median over the windows with tissue. Two layers of tissue absorb twice as much as one: above 1.75 the window is
      folded. Blood, or dense lymphoid tissue on a pale slide, can reach it too: look at folds before you leave them
      out.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.pp.quality(sdata)
    >>> sorted(set(sdata["quality"]["flag"]))
    ['empty', 'good']
    """
    check_elements.is_spatialdata(sdata)
    check_config.positive("window_um", window_um)
    image_key = elements.find_image(sdata, image_key)
    check_elements.may_write(sdata, key_added, elements.read_attrs(sdata, keys.QUALITY), "stp.pp.quality")
    um_per_px = image_resolution(sdata, image_key, um_per_px)
    if um_per_px > COARSE_UM:
        msg = (
            f"Image {image_key!r} has {um_per_px:.4g} µm per pixel; quality is measured at {STEP_UM:g}, and nothing is "
            f"seen beyond {COARSE_UM:g}. Give the full-resolution image as `image_key`."
        )
        raise ValueError(msg)
    levels = pyramid(sdata.images[image_key])
    found, side, origin = measure_windows(levels, um_per_px, window_um, image_key)
    flags, ratio = flag_windows(found)
    height, width = levels[0].pixels.shape[1:]
    row, column = np.divmod(np.arange(len(flags)), found.n_columns)
    left, top = origin[1] + column * side[1], origin[0] + row * side[0]
    boxes = shapely.box(left, top, np.minimum(left + side[1], width), np.minimum(top + side[0], height))
    frame = GeoDataFrame(
        {"flag": flags, "coverage": found.coverage, "sharpness": found.sharpness, "density_ratio": ratio,
         "ink": found.ink}, geometry=boxes,
    )  # fmt: skip
    elements.write_shapes(sdata, key_added, frame, image_key)
    record = {"image_key": image_key, "um_per_px": um_per_px, "window_px": list(side), "origin_px": list(origin),
              "n_columns": found.n_columns, "min_coverage": MIN_COVERAGE, "min_sharpness": MIN_SHARPNESS,
              "max_ink": MAX_INK, "fold_ratio": FOLD_RATIO}  # fmt: skip
    elements.write_attrs(sdata, keys.QUALITY, key_added, record)


def flag_windows(found: WindowMeasures) -> tuple[NDArray[np.object_], Float]:
    """``(n,)`` the flag of each window, and its density relative to the slide."""
    with np.errstate(invalid="ignore"):
        is_tissue = found.density >= MIN_DENSITY
    usual = float(np.median(found.dense[is_tissue])) if is_tissue.any() else np.nan
    ratio: Float = (found.dense / usual).astype(np.float32)
    flags = np.full(len(found.coverage), "good", object)
    with np.errstate(invalid="ignore"):
        for name, holds in {
            "blurred": found.sharpness < MIN_SHARPNESS,
            "folded": ratio > FOLD_RATIO,
            "inked": found.ink > MAX_INK,
            "empty": (found.coverage < MIN_COVERAGE) & (found.ink <= MAX_INK),
        }.items():
            flags[holds] = name
    return flags, ratio


def measure_windows(
    levels: Sequence[Level], um_per_px: float, window_um: float, image_key: str
) -> tuple[WindowMeasures, tuple[float, float], tuple[float, float]]:
    """Measures of all windows, their height and width, and where the first begins (y, x), in full-resolution pixels."""
    background = background_colour(thumbnail(tuple(levels), um_per_px, COARSE_UM, image_key).rgb)
    position = best_level(levels, STEP_UM / um_per_px)
    k = max(1, round(STEP_UM / um_per_px / max(levels[position].factor)))
    step_um = k * float(np.mean(levels[position].factor)) * um_per_px
    n = max(4, round(window_um / step_um))  # pixels of a window
    per_strip = max(1, STRIP_ROWS // (n * k))
    level, strips = rgb_strips(levels, position, per_strip * n * k, image_key)
    rows: list[tuple[float, ...]] = []
    n_columns = -(-level.pixels.shape[2] // (n * k))
    for strip in strips:
        rows += _measure_strip(block_means(strip, k).transpose(1, 2, 0), background, step_um, n)
    coverage, sharpness, density, dense, ink = np.array(rows, np.float32).T
    found = WindowMeasures(
        n_columns=n_columns, coverage=coverage, sharpness=sharpness, density=density, dense=dense, ink=ink
    )
    return found, (n * k * level.factor[0], n * k * level.factor[1]), level.offset


def _measure_strip(rgb: Float, background: Float, step_um: float, n: int) -> list[tuple[float, ...]]:
    """Measures of the windows of ``n`` by ``n`` pixels in some rows of them; those at the edge may be smaller."""
    from scipy.ndimage import gaussian_filter

    density = np.log((background + 1) / (rgb + 1))
    density[rgb.max(axis=2) < BLACK] = 0
    green, filled = density[..., 1], np.abs(density).max(axis=2) >= EMPTY
    smooth, ink = gaussian_filter(green, SMOOTH_UM / step_um), _ink(rgb, background, step_um)
    corners = [(y, x) for y in range(0, rgb.shape[0], n) for x in range(0, rgb.shape[1], n)]
    windows = [(slice(y, y + n), slice(x, x + n)) for y, x in corners]
    return [_measure_window(green[at], smooth[at], filled[at], ink[at]) for at in windows]


def _ink(rgb: Float, background: Float, step_um: float) -> NDArray[np.bool_]:
    """Pixels with ink, or black, found at the resolution of `pp.tissue`, at which single blue nuclei are averaged."""
    k = max(1, round(COARSE_UM / step_um))
    coarse = block_means(rgb.transpose(2, 0, 1), k).transpose(1, 2, 0)
    black = coarse.max(axis=2) < BLACK
    density = np.log((background + 1) / (coarse + 1))
    density[black] = 0
    found: NDArray[np.bool_] = (ink_mask(density) | black).repeat(k, axis=0).repeat(k, axis=1)
    return found[: rgb.shape[0], : rgb.shape[1]]


def _measure_window(
    green: Float, smooth: Float, filled: NDArray[np.bool_], ink: NDArray[np.bool_]
) -> tuple[float, ...]:
    """The fields of `WindowMeasures` for one window."""
    coverage, inked = float(filled.mean()), float(ink.mean())
    if coverage < MEASURABLE:
        return coverage, np.nan, np.nan, np.nan, inked
    dense = float(np.quantile(smooth, 1 - FOLD_SHARE))
    return coverage, _sharpness(green, filled), float(np.median(green[filled])), dense, inked


def _sharpness(density: Float, filled: NDArray[np.bool_]) -> float:
    """Variance of the Laplacian over that at half the resolution, where it is not empty; NaN for too few pixels."""
    fine = _laplacian_variance(density, filled)
    if fine < MIN_DETAIL**2:
        return 0.0
    height, width = (side // 2 * 2 for side in density.shape)
    halves = [
        part[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for part in (density, filled)
    ]
    coarse = _laplacian_variance(halves[0], halves[1] > 0.5)
    return fine / coarse if coarse > 0 else np.nan


def _laplacian_variance(density: Any, filled: NDArray[np.bool_]) -> float:
    from scipy.ndimage import laplace

    inner = (slice(1, -1), slice(1, -1))  # beyond the edge nothing is known
    values = laplace(density)[inner][filled[inner]]
    return float(values.var()) if len(values) > 1 else np.nan
