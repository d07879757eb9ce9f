"""The baseline every network has to beat: ridge regression on the colour statistics of the same patches.

numpy; torch where patches are on a GPU.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .._geometry import margin_px
from ..metrics import pearson
from ..metrics.correlation import LEAST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ..pp.targets import TargetSpec

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Ridge penalties tried on standardised features."""
VALUES_AT_ONCE = 1 << 28
"""Pixel values whose optical density a GPU holds at a time."""
CHANNELS = ("red", "green", "blue")


def color_statistics(patches: Tensor | NDArray[np.uint8], spot_share: float) -> NDArray[np.float32]:
    """Mean and standard deviation of the optical density of each channel, in the spot and in every field of view.

    Parameters
    ----------
    patches
        ``(n, s, 3, p, p)`` uint8, narrowest field of view first; a tensor on a device is worked on there.
    spot_share
        Spot diameter as a share of the narrowest field of view: the square of that side is the first window.

    Returns
    -------
    ``(n, 6 * (s + 1))``: three means and three standard deviations a window, the spot first.
    """
    margin = margin_px(patches.shape[-1], spot_share)
    if isinstance(patches, np.ndarray):
        return _counted(patches, margin)
    return _counted(patches.numpy(), margin) if patches.device.type == "cpu" else _computed(patches, margin)


def _counted(patches: NDArray[np.uint8], margin: int) -> NDArray[np.float32]:
    """On the CPU: from how often each pixel value occurs, exactly."""
    from .histogram import histograms

    density = -np.log(np.maximum(np.arange(256), 1) / 255)
    counts = histograms(patches, margin)  # (n, s + 1, 3, 256)
    n_pixels = counts.sum(axis=-1)
    mean = counts @ density / n_pixels
    variance = counts @ density**2 / n_pixels - mean**2
    statistics = np.stack([mean, np.sqrt(np.maximum(variance, 0))], axis=2)  # (n, s + 1, 2, 3)
    return statistics.reshape(len(patches), -1).astype(np.float32)


def _computed(patches: Tensor, margin: int) -> NDArray[np.float32]:
    """On another device: as much at a time as it holds with ease."""
    from ..models.image_statistics import window_colors  # the baseline is also applied where no torch is needed

    n_at_once = max(1, VALUES_AT_ONCE // math.prod(patches.shape[1:]))
    parts = [window_colors(part, margin) for part in patches.split(n_at_once)]
    return np.concatenate([part.cpu().numpy() for part in parts])


def fit_ridge(
    features: NDArray[np.float32],
    observed: NDArray[np.float32],
    fold: Sequence[str] | NDArray[np.str_],
    slide: NDArray[np.int64],
    spec: TargetSpec,
) -> tuple[NDArray[np.float32], float]:
    """Ridge regression of the same targets on colour statistics.

    The penalty is chosen by leaving out one fold after the other (groups of slides), by gene-wise Pearson correlation.

    Parameters
    ----------
    features
        ``(n, d)`` colour statistics of training spots.
    observed
        ``(n, g)`` normalised expression.
    fold
        ``(n,)`` fold of each spot.
    slide
        ``(n,)`` slide of each spot.
    spec
        How targets are standardised and projected.

    Returns
    -------
    ``(g, d + 1)`` weights in the units of ``observed``, the intercept last; and the penalty.
    """
    folds = np.asarray(fold)
    scores = np.zeros(len(PENALTIES))
    for held in np.unique(folds):
        train, test = folds != held, folds == held
        if min(train.sum(), test.sum()) < LEAST:
            continue
        for i, penalty in enumerate(PENALTIES):
            predicted = apply_ridge(
                _solve(features[train], observed[train], slide[train], spec, penalty), features[test]
            )
            r = pearson(observed[test], predicted)
            scores[i] += r[~np.isnan(r)].mean() if not np.isnan(r).all() else 0.0
    penalty = PENALTIES[int(np.argmax(scores))] if scores.any() else 100.0
    return _solve(features, observed, slide, spec, penalty), penalty


def apply_ridge(weights: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the baseline predicts.

    Parameters
    ----------
    weights
        ``(g, d + 1)``, the intercept last.
    features
        ``(n, d)`` colour statistics.

    Returns
    -------
    ``(n, g)``.
    """
    predicted: NDArray[np.float32] = features @ weights[:, :-1].T + weights[:, -1]
    return predicted


def _solve(
    features: NDArray[np.float32],
    observed: NDArray[np.float32],
    slide: NDArray[np.int64],
    spec: TargetSpec,
    penalty: float,
) -> NDArray[np.float32]:
    from ..pp.targets import Targets

    targets = Targets.fit(spec, [""] * observed.shape[1], observed, slide)
    encoded = targets.encode(observed, slide).astype(np.float64)
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    x = (features - mean) / np.where(spread > 1e-9, spread, 1.0)
    slope = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (encoded - encoded.mean(axis=0)))
    rows = targets.components if targets.components is not None else np.eye(len(targets.mean))
    weights = ((slope @ rows) * targets.scale).T / np.where(spread > 1e-9, spread, 1.0)  # (g, d)
    intercept = observed.mean(axis=0, dtype=np.float64) - weights @ mean
    return np.ascontiguousarray(np.concatenate([weights, intercept[:, None]], axis=1), np.float32)
