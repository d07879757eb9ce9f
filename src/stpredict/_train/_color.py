"""The baseline every network has to beat: ridge regression on the colour statistics of the same patches.

numpy only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..metrics import pearson
from ..metrics._correlation import LEAST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..pp._targets import TargetSpec

PENALTIES = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Ridge penalties tried on standardised features."""
CHANNELS = ("red", "green", "blue")


def color_statistics(patches: NDArray[np.uint8], spot_share: float) -> NDArray[np.float32]:
    """Mean and standard deviation of the optical density of each channel, in the spot and in every field of view.

    Parameters
    ----------
    patches
        ``(n, s, 3, p, p)``, narrowest field of view first.
    spot_share
        Spot diameter as a share of the narrowest field of view: the square of that side is the first window.

    Returns
    -------
    ``(n, 6 * (s + 1))``: three means and three standard deviations a window, the spot first.
    """
    size = patches.shape[-1]
    margin = min(max(0, round(size * (1 - spot_share) / 2)), (size - 1) // 2)
    density = -np.log(np.maximum(np.arange(256, dtype=np.float32), 1) / 255)
    parts = []
    for window in (patches[:, 0, :, margin : size - margin, margin : size - margin], *np.moveaxis(patches, 1, 0)):
        values = [density[spots].reshape(len(spots), 3, -1) for spots in np.array_split(window, -(-len(window) // 64))]
        parts += [np.concatenate([v.mean(-1) for v in values]), np.concatenate([v.std(-1) for v in values])]
    return np.concatenate(parts, axis=1)


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
    from ..pp._targets import Targets

    targets = Targets.fit(spec, [""] * observed.shape[1], observed, slide)
    encoded = targets.encode(observed, slide).astype(np.float64)
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    x = (features - mean) / np.where(spread > 1e-9, spread, 1.0)
    slope = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (encoded - encoded.mean(axis=0)))
    rows = targets.components if targets.components is not None else np.eye(len(targets.mean))
    weights = ((slope @ rows) * targets.scale).T / np.where(spread > 1e-9, spread, 1.0)  # (g, d)
    intercept = observed.mean(axis=0, dtype=np.float64) - weights @ mean
    return np.ascontiguousarray(np.concatenate([weights, intercept[:, None]], axis=1), np.float32)
