"""Ridge regression on the nuclei in the patches: how many, how large, how dark, how close. Not published.

What plain image analysis counts, without a network: a referee asks for it beside every encoder. Haematoxylin is
separated from eosin :cite:p:`Ruifrok2001`, smoothed, and thresholded by Otsu's method in each field of view; connected
parts are nuclei, and their darkest points are counted. Sizes are in pixels of the patch, so training slides and new
ones must be cut at the same field of view, as everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from .._checks import models as check
from .._geometry import margin_px
from ._closed_form import Ridge
from ._precision import unit_pixels
from .baselines import PatchRidge, RidgeColorConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from .contract import SpotBatch

HAEMATOXYLIN, EOSIN = np.array([0.650, 0.704, 0.286]), np.array([0.072, 0.990, 0.105])
"""Optical density of the two stains in R, G and B, of Ruifrok and Johnston (2001)."""
N_NUCLEI = 10
"""Statistics of a window: log count, covered share, mean and spread of log area, 90 % quantile of area, mean and spread
of darkness, elongation, mean and spread of the distance to the nearest nucleus."""
SMOOTH_PX, PEAK_PX, LEAST_PX = 1.0, 5, 6
"""Width of smoothing, side of the window in which a nucleus has one darkest point, and pixels of the smallest one."""
LEAST_DENSITY = 0.05
"""Haematoxylin below which nothing is a nucleus, so that glass has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NucleiRidgeConfig(RidgeColorConfig):
    """Shape of a ``NucleiRidge``: that of a ``RidgeColor``, and where statistics are clipped."""

    clip: float | None = 3.0
    """Statistics are clipped at this many standard deviations from the training mean, unless None."""
    fov_spots: tuple[float, ...] = (1.5, 3.0)
    size_px: int = 224

    def __post_init__(self) -> None:
        RidgeColorConfig.__post_init__(self)
        check.clip(self.clip)


class NucleiRidge(PatchRidge):
    """Ridge regression on the nuclei in the patches."""

    config: NucleiRidgeConfig

    def __init__(self, config: NucleiRidgeConfig) -> None:
        super().__init__()
        self.config = config
        self.ridge = Ridge(N_NUCLEI * (len(config.fov_spots) + 1), config.n_outputs, config.clip)

    def encode(self, batch: SpotBatch) -> Tensor:
        """Statistics ``(b, 10 * (s + 1))`` of the nuclei in the spot and in every field of view."""
        check.patches(tuple(batch.patches.shape), len(self.config.fov_spots), self.config.size_px)
        margin = margin_px(self.config.size_px, 1 / self.config.fov_spots[0])
        pixels = unit_pixels(batch.patches).float().cpu().numpy()
        found = [_spot_statistics(patches, margin) for patches in pixels]
        return torch.from_numpy(np.stack(found)).to(batch.patches.device)


def _spot_statistics(patches: NDArray[np.float32], margin: int) -> NDArray[np.float32]:
    """``(s, 3, p, p)`` in [0, 1] to ``(10 * (s + 1),)``; the spot, the centre of the first patch, comes first."""
    densities = [haematoxylin(patch) for patch in patches]
    size = densities[0].shape[-1]
    spot = densities[0][margin : size - margin, margin : size - margin]
    return np.concatenate([nucleus_statistics(each) for each in (spot, *densities)]).astype(np.float32)


def haematoxylin(patch: NDArray[np.float32]) -> NDArray[np.float64]:
    """Haematoxylin in optical density, ``(3, p, p)`` in [0, 1] to ``(p, p)``: least squares over two stains."""
    density = -np.log10(np.maximum(patch, 1 / 255)).reshape(3, -1)
    stains = np.stack([HAEMATOXYLIN, EOSIN], axis=1)
    amount = np.linalg.lstsq(stains, density.astype(np.float64), rcond=None)[0][0]
    positive: NDArray[np.float64] = np.maximum(amount, 0.0).reshape(patch.shape[1:])
    return positive


def nucleus_statistics(density: NDArray[np.float64]) -> NDArray[np.float64]:
    """`N_NUCLEI` numbers of one window of haematoxylin; zeros where there is no nucleus."""
    from scipy import ndimage  # deferred: only this model needs it
    from skimage.filters import threshold_otsu

    smooth = ndimage.gaussian_filter(density, SMOOTH_PX)
    if np.ptp(smooth) < 1e-6:
        return np.zeros(N_NUCLEI)
    dark = smooth > max(LEAST_DENSITY, threshold_otsu(smooth))  # type: ignore[no-untyped-call]
    parts, n_parts = ndimage.label(dark)
    area = np.bincount(parts.ravel(), minlength=n_parts + 1).astype(np.float64)
    kept = np.flatnonzero(area >= LEAST_PX)
    kept = kept[kept > 0]
    if not len(kept):
        return np.zeros(N_NUCLEI)
    inside = np.isin(parts, kept)
    peaks = np.argwhere(inside & (smooth == ndimage.maximum_filter(smooth, PEAK_PX)))
    values = smooth[inside]
    log_area = np.log(area[kept])
    near = _nearest_distances(peaks, density.shape)
    return np.array([
        np.log1p(1e4 * len(peaks) / density.size), inside.mean(), log_area.mean(), log_area.std(),
        np.log(np.quantile(area[kept], 0.9)), values.mean(), values.std(), _elongation(parts, area, kept),
        near.mean(), near.std(),
    ])  # fmt: skip


def _nearest_distances(peaks: NDArray[np.intp], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Log distance of each nucleus to the nearest other one; the side of the window where there is only one."""
    from scipy.spatial import cKDTree

    if len(peaks) < 2:
        return np.log([float(max(shape))])
    distances: NDArray[np.float64] = np.log(cKDTree(peaks).query(peaks, k=2)[0][:, 1])
    return distances


def _elongation(parts: NDArray[np.int32], area: NDArray[np.float64], kept: NDArray[np.intp]) -> float:
    """Mean log ratio of the long to the short axis of nuclei, from their second moments."""
    rows, columns = np.nonzero(parts)
    label = parts[rows, columns]
    total = partial(np.bincount, label, minlength=len(area))
    y, x = (total(weights=each) / np.maximum(area, 1) for each in (rows, columns))
    dy, dx = rows - y[label], columns - x[label]
    yy, xx, yx = (
        total(weights=a * b)[kept] / area[kept] + pixel
        for a, b, pixel in ((dy, dy, 1 / 12), (dx, dx, 1 / 12), (dy, dx, 0.0))
    )
    spread = np.sqrt((yy - xx) ** 2 + 4 * yx**2)
    return float((np.log((yy + xx + spread) / np.maximum(yy + xx - spread, 1e-9)) / 2).mean())
