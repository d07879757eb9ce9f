"""Expression below spot size, learnt from whole spots: closed-form weak supervision. Arrays in, arrays out.

Places inside a spot share its value as their mean; what differs between them is told by their pixels. Nothing here
knows of tables or of the consistency of means (`superpixels`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from ..._geometry import PatchSpec, spot_pitch
from ..._train.data import read_pieces
from ..._train.prefetch import ahead
from ...models.image_statistics import patch_statistics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ..._slides import Slide

WINDOWS = (2.0, 4.0, 8.0, 16.0)
"""Sides of the windows around a place whose colour and texture are looked at, in steps of the lattice."""
WINDOW_PX = 32
"""Side in pixels to which these windows are resampled; the first window of the statistics is the middle of it."""
MOST_SPREADS = 4.0
"""Statistics farther from their mean than so many standard deviations count as if they were there."""
FEATURE_WEIGHTS = (0.0, 0.03, 0.1, 0.3, 1.0)
PLACE_WEIGHTS = (0.0, 0.1, 0.3, 1.0)
"""Variances tried, of what pixels and of what neighbouring spots explain, in units of the variance of the noise."""
REACHES = (1.0, 2.0, 4.0)
"""How far a spot tells about its surroundings, tried in pitches."""
MOST_CHOSEN_ON = 600
"""Weights are chosen on at most so many spots: those around the middle one."""


def windows(step_um: float) -> PatchSpec:
    """The windows around each place.

    Parameters
    ----------
    step_um
        Distance of places.

    Returns
    -------
    Patches from two to sixteen steps wide.
    """
    return PatchSpec(fov_um=tuple(step_um * side for side in WINDOWS), size_px=WINDOW_PX, fill="reflect")


def local_features(slide: Slide, step_um: float, *, progress: bool = True) -> NDArray[np.float16]:
    """Colour and texture of the narrow surroundings of every point of a slide.

    Parameters
    ----------
    slide
        A slide whose points are the places.
    step_um
        Distance of places.
    progress
        Whether to show a progress bar.

    Returns
    -------
    ``(m, 135)``: the statistics of five windows, standardised over the places and clipped.
    """
    spec, found = windows(step_um), None
    with (
        tqdm(total=len(slide.xy_px), desc=f"pixels {slide.name}", unit="place", disable=not progress) as bar,
        ahead(read_pieces(slide, spec)) as read,
    ):
        for piece in read:
            values = patch_statistics(piece.spots.patches, 0.5).numpy()
            if found is None:
                found = np.empty((len(slide.xy_px), values.shape[1]), np.float16)
            found[piece.rows] = np.clip(values, -6e4, 6e4)
            bar.update(len(piece.rows))
    return standardised(np.empty((0, 1), np.float16) if found is None else found)


def standardised(features: NDArray[np.float16]) -> NDArray[np.float16]:
    """Mean 0 and standard deviation 1 of each column, in place; outliers are pulled in.

    Parameters
    ----------
    features
        ``(m, d)``; overwritten.

    Returns
    -------
    The same array.
    """
    n = max(len(features), 1)
    mean = sum(part.sum(axis=0, dtype=np.float64) for part in _parts(features)) / n
    square = sum(((part - mean) ** 2).sum(axis=0) for part in _parts(features)) / n
    spread = np.sqrt(np.where(square > 1e-8, square, np.inf))
    for part in _parts(features):
        part[:] = np.clip((part - mean) / spread, -MOST_SPREADS, MOST_SPREADS)
    return features


def _parts(features: NDArray[np.float16]) -> Iterator[NDArray[np.float16]]:
    """Views of some rows at a time."""
    return (features[start : start + 65_536] for start in range(0, len(features), 65_536))


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """How much is believed of each source, in units of the variance of the noise of a spot."""

    features: float
    """Variance between spots that pixels explain."""
    places: float
    """Variance that neighbouring spots share."""
    length_um: float
    """How far neighbours reach."""
    error: float = np.nan
    """Mean squared error of leaving out one spot after the other, in variances of the genes; 1 is no better than
    nothing."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Head:
    """What pixels and neighbouring spots tell of expression, beyond what the predictor says."""

    weights: Weights
    slope: NDArray[np.float64]
    """``(d, g)`` change for a unit of each feature."""
    centre: NDArray[np.float64]
    """``(d,)`` features of the mean spot."""
    mean: NDArray[np.float64]
    """``(g,)``."""
    xy_um: NDArray[np.float64]
    """``(n, 2)`` spots that tell about their surroundings."""
    strength: NDArray[np.float64]
    """``(n, g)`` how much each tells."""

    def of_features(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """What pixels tell: ``(m, d)`` to ``(m, g)``."""
        told: NDArray[np.float64] = (features.astype(np.float64) - self.centre) @ self.slope
        return told

    def of_places(self, xy_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """What neighbouring spots tell, with the mean: ``(m, 2)`` to ``(m, g)``."""
        told = np.empty((len(xy_um), len(self.mean)))
        for start in range(0, len(xy_um), 4096):
            near = _kernel(xy_um[start : start + 4096], self.xy_um, self.weights.length_um)
            told[start : start + 4096] = self.mean + near @ self.strength
        return told


def fit_head(
    features: NDArray[np.float64],
    xy_um: NDArray[np.float64],
    values: NDArray[np.float64],
    weights: Weights | None = None,
) -> Head:
    """Regress values of spots on the mean features of their places, and on where they lie.

    Parameters
    ----------
    features
        ``(n, d)`` mean over the places of each spot.
    xy_um
        ``(n, 2)`` centres of the spots.
    values
        ``(n, g)`` what is to be explained.
    weights
        How much is believed of each source; by default what predicts left-out spots best.

    Returns
    -------
    The head.

    Notes
    -----
    A Gaussian process with a linear kernel of the features, a Matérn 3/2 kernel of the places and noise:
    ``K = a F F' / v + b M(l) + I``, with ``v`` the variance of the features over spots. Since the features enter
    linearly, those of a spot are the mean of those of its places, and a spot tells about places as it is told by them.
    One set of weights serves all genes, each divided by its standard deviation.
    """
    centre, mean = features.mean(axis=0), values.mean(axis=0)
    scale = np.where(values.std(axis=0) > 1e-9, values.std(axis=0), 1.0)
    centred, standard = features - centre, (values - mean) / scale
    variance = max(float((centred**2).sum(axis=1).mean()), 1e-12)
    if weights is None:
        weights = choose(centred / np.sqrt(variance), xy_um, standard)
    strength = np.linalg.solve(_covariance(centred / np.sqrt(variance), xy_um, weights), standard) * scale
    return Head(
        weights=weights,
        slope=weights.features / variance * centred.T @ strength,
        centre=centre,
        mean=mean,
        xy_um=xy_um,
        strength=weights.places * strength,
    )


def choose(features: NDArray[np.float64], xy_um: NDArray[np.float64], values: NDArray[np.float64]) -> Weights:
    """The weights with which each spot is best predicted from all others.

    Parameters
    ----------
    features
        ``(n, d)`` centred, of variance 1 in all.
    xy_um
        ``(n, 2)``.
    values
        ``(n, g)`` of mean 0 and variance 1.

    Returns
    -------
    The best of the weights tried. With both at 0 nothing is added to the predictor but a mean.
    """
    some = np.argsort(((xy_um - np.median(xy_um, axis=0)) ** 2).sum(axis=1), kind="stable")[:MOST_CHOSEN_ON]
    features, xy_um, values = features[some], xy_um[some], values[some]
    pitch = spot_pitch(xy_um)
    tried = {
        Weights(features=a, places=b, length_um=float(pitch * (reach if b else REACHES[0])))
        for a, b, reach in product(FEATURE_WEIGHTS, PLACE_WEIGHTS, REACHES)
    }
    errors = {weights: _left_out(features, xy_um, values, weights) for weights in sorted(tried, key=_simplest_first)}
    best = min(errors, key=errors.__getitem__)
    return replace(best, error=errors[best])


def _simplest_first(weights: Weights) -> tuple[float, float, float]:
    return weights.features + weights.places, weights.features, weights.length_um


def _left_out(
    features: NDArray[np.float64], xy_um: NDArray[np.float64], values: NDArray[np.float64], weights: Weights
) -> float:
    """Mean squared error of predicting each spot from all others; the mean of all is known only as well as they say."""
    inverse = np.linalg.inv(_covariance(features, xy_um, weights) + 1.0)
    error = inverse @ values / np.diag(inverse)[:, None]
    return float((error**2).mean())


def _covariance(features: NDArray[np.float64], xy_um: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    near = _kernel(xy_um, xy_um, weights.length_um) if weights.places else 0.0
    covariance: NDArray[np.float64] = weights.features * features @ features.T + weights.places * near
    return covariance + np.eye(len(features))


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """Matérn 3/2 between two sets of points."""
    from scipy.spatial.distance import cdist

    distance = np.sqrt(3) / length * cdist(a, b)
    kernel: NDArray[np.float64] = (1 + distance) * np.exp(-distance)
    return kernel
