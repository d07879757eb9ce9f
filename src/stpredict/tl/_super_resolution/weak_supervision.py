"""Weak supervision in closed form: a model of single points is learnt from the means of spots. Arrays in, arrays out.

Only the mean over a spot is observed; differences within a spot are inferred from the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from ..._geometry import PatchSpec, spot_pitch
from ..._progress import progress_bar
from ..._train.data import read_pieces
from ..._train.prefetch import prefetch
from ...models.image_statistics import patch_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..._slides.slides import Slide

WINDOWS = (2.0, 4.0, 8.0, 16.0)
"""Sides of the windows around a point whose colour and texture are used, in steps of the lattice."""
WINDOW_PX = 32
"""Side in pixels to which windows are resampled."""
BLOCK_ROWS = 65_536
"""Points that are standardised at a time."""
MAX_STD = 4.0
"""Statistics are clipped to this many standard deviations from their mean."""
FEATURE_WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0)
POSITION_WEIGHTS = (0.0, 0.1, 0.3, 1.0)
"""Candidate variances of the feature kernel and of the position kernel, in units of the noise variance."""
LENGTH_SCALES = (1.0, 2.0, 4.0)
"""Candidate length scales of the position kernel, in pitches."""
MAX_SELECTION_SPOTS = 600
"""Kernel weights are chosen on at most this many spots, the most central ones."""


def window_features(slide: Slide, step_um: float, *, progress: bool = True) -> NDArray[np.float16]:
    """Colour and texture statistics of the windows around every point, standardised and clipped."""
    windows = PatchSpec(fov_um=tuple(step_um * side for side in WINDOWS), size_px=WINDOW_PX, fill="reflect")
    found = None
    with (
        progress_bar(total=len(slide.xy_px), desc=f"pixels {slide.name}", unit="point", progress=progress) as bar,
        prefetch(read_pieces(slide, windows)) as read,
    ):
        for piece in read:
            values = patch_statistics(piece.spots.patches, 0.5).numpy()
            if found is None:
                found = np.empty((len(slide.xy_px), values.shape[1]), np.float16)
            found[piece.rows] = np.clip(values, -6e4, 6e4)
            bar.update(len(piece.rows))
    return standardize(np.empty((0, 1), np.float16) if found is None else found)


def standardize(features: NDArray[np.float16]) -> NDArray[np.float16]:
    """Standardise each column and clip outliers, in place."""
    n, parts = max(len(features), 1), np.split(features, [*range(BLOCK_ROWS, len(features), BLOCK_ROWS)])
    mean = sum(part.sum(axis=0, dtype=np.float64) for part in parts) / n
    square = sum(((part - mean) ** 2).sum(axis=0) for part in parts) / n
    std = np.sqrt(np.where(square > 1e-8, square, np.inf))
    for part in parts:
        part[:] = np.clip((part - mean) / std, -MAX_STD, MAX_STD)
    return features


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelWeights:
    """Variances of the kernels, in units of the noise variance of a spot."""

    features: float
    """Variance explained by features of the pixels."""
    places: float
    """Variance shared by nearby spots."""
    length_um: float
    """Length scale of the position kernel."""
    error: float = np.nan
    """Mean squared leave-one-out error in variances of the genes; 1 is no better than the mean."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResidualModel:
    """Regression of the residuals of the predictor on features of the pixels and on nearby spots."""

    weights: KernelWeights
    slope: NDArray[np.float64]
    """``(d, g)`` coefficients of the features."""
    centre: NDArray[np.float64]
    """``(d,)`` mean features of the spots."""
    mean: NDArray[np.float64]
    """``(g,)``."""
    xy_um: NDArray[np.float64]
    """``(n, 2)`` training spots."""
    dual: NDArray[np.float64]
    """``(n, g)`` dual coefficients of the training spots."""

    def from_features(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Contribution of the features: ``(m, d)`` to ``(m, g)``."""
        found: NDArray[np.float64] = (features.astype(np.float64) - self.centre) @ self.slope
        return found

    def from_positions(self, xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """Contribution of nearby spots, with the mean: ``(m, 2)`` to ``(m, g)``."""
        found = np.empty((len(xy_um), len(self.mean)))
        for start in range(0, len(xy_um), 4096):
            kernel = _kernel(xy_um[start : start + 4096], self.xy_um, self.weights.length_um)
            found[start : start + 4096] = self.mean + kernel @ self.dual
        return found


def fit_residuals(
    features: NDArray[np.float64],
    xy_um: NDArray[np.float64],
    values: NDArray[np.float64],
    weights: KernelWeights | None = None,
) -> ResidualModel:
    """Gaussian process regression of spot residuals on mean features and positions, in closed form.

    The covariance is ``K = a F F' / v + b M(l) + I``: a linear kernel of the features with ``v`` their variance over
    spots, a Matérn 3/2 kernel of the positions, and noise. The features enter linearly, so the features of a spot are
    the mean of those of its points. One set of weights serves all genes, each divided by its standard deviation.
    """
    centre, mean = features.mean(axis=0), values.mean(axis=0)
    scale = np.where(values.std(axis=0) > 1e-9, values.std(axis=0), 1.0)
    centred, standard = features - centre, (values - mean) / scale
    variance = max(float((centred**2).sum(axis=1).mean()), 1e-12)
    if weights is None:
        weights = choose_weights(centred / np.sqrt(variance), xy_um, standard)
    dual = np.linalg.solve(_covariance(centred / np.sqrt(variance), xy_um, weights), standard) * scale
    return ResidualModel(
        weights=weights,
        slope=weights.features / variance * centred.T @ dual,
        centre=centre,
        mean=mean,
        xy_um=xy_um,
        dual=weights.places * dual,
    )


def choose_weights(
    features: NDArray[np.float64], xy_um: NDArray[np.float64], values: NDArray[np.float64]
) -> KernelWeights:
    """The kernel weights with the smallest leave-one-out error."""
    central = np.argsort(((xy_um - np.median(xy_um, axis=0)) ** 2).sum(axis=1), kind="stable")[:MAX_SELECTION_SPOTS]
    features, xy_um, values = features[central], xy_um[central], values[central]
    pitch = spot_pitch(xy_um)
    candidates = {
        KernelWeights(features=a, places=b, length_um=float(pitch * (scale if b else LENGTH_SCALES[0])))
        for a, b, scale in product(FEATURE_WEIGHTS, POSITION_WEIGHTS, LENGTH_SCALES)
    }
    simplest_first = sorted(candidates, key=lambda w: (w.features + w.places, w.features, w.length_um))
    errors = {weights: _leave_one_out_error(features, xy_um, values, weights) for weights in simplest_first}
    best = min(errors, key=errors.__getitem__)
    return replace(best, error=errors[best])


def _leave_one_out_error(
    features: NDArray[np.float64], xy_um: NDArray[np.float64], values: NDArray[np.float64], weights: KernelWeights
) -> float:
    """Mean squared leave-one-out error, in closed form; the mean is estimated with the same covariance."""
    inverse = np.linalg.inv(_covariance(features, xy_um, weights) + 1.0)
    error = inverse @ values / np.diag(inverse)[:, None]
    return float((error**2).mean())


def _covariance(
    features: NDArray[np.float64], xy_um: NDArray[np.float64], weights: KernelWeights
) -> NDArray[np.float64]:
    kernel = _kernel(xy_um, xy_um, weights.length_um) if weights.places else 0.0
    covariance: NDArray[np.float64] = weights.features * features @ features.T + weights.places * kernel
    return covariance + np.eye(len(features))


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Matérn 3/2 between two sets of points."""
    from scipy.spatial.distance import cdist

    distance = np.sqrt(3) / length * cdist(a, b)
    kernel: NDArray[np.float64] = (1 + distance) * np.exp(-distance)
    return kernel
