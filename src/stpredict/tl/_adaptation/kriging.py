"""Kriging of many genes at once, from a few measured spots to all spots of a slide.

Genes share their noisy measurements through principal components: each component is a Gaussian process with an
exponential covariance, whose range and share of noise are those with the best leave-one-out likelihood.
scikit-learn computes the processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from .empirical_bayes import SIGNAL_TO_NUGGET, exponential_covariance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SIGNALS, RANGES_UM = (0.1, 0.3, 1.0, 3.0, 10.0), (200.0, 400.0, 800.0)
"""Spatial variance over that of noise, and ranges, that are tried; no spatial variance is tried too."""
LEAST_SIGNAL = 0.03
"""What no spatial variance counts as in the prior of the logarithm, which has mean log 0.3 and variance 1."""
N_COMPONENTS = 20
"""Most components that are kriged; the rest of each gene is noise."""
MAX_SPOTS = 500
"""Spots of which ranges are chosen; more are thinned out evenly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Covariance:
    """Exponential covariance with total variance 1."""

    signal_to_nugget: float
    """Spatial variance over that of independent noise."""
    range_um: float
    """Distance at which the correlation of the spatial part is 1/e."""

    @property
    def nugget(self) -> float:
        """Variance of independent noise."""
        return 1 / (1 + self.signal_to_nugget)

    def between(self, xy_um: Array, other_um: Array) -> Array:
        """Spatial part between two sets of positions."""
        return exponential_covariance(cdist(xy_um, other_um), self.signal_to_nugget, self.range_um)

    def of(self, xy_um: Array) -> Array:
        """Covariance of measurements at some positions."""
        return self.between(xy_um, xy_um) + self.nugget * np.eye(len(xy_um))

    @property
    def log_prior(self) -> float:
        """Logarithm of its prior density, but for a constant."""
        return float(-0.5 * np.log(max(self.signal_to_nugget, LEAST_SIGNAL) / SIGNAL_TO_NUGGET) ** 2)


CANDIDATES = (
    Covariance(signal_to_nugget=0.0, range_um=1.0),
    *(Covariance(signal_to_nugget=signal, range_um=length) for signal in SIGNALS for length in RANGES_UM),
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kriged:
    """Values at all spots, ``(n_spots, g)``."""

    mean: Array
    variance: Array
    """Of a new measurement at the spot: of the value without noise, and of the noise."""
    noise: Array
    """``(g,)`` variance of the noise."""
    range_um: float
    """Range of the first component; 0 if it is noise."""


def krige(values: Array, rows: NDArray[np.intp], xy_um: Array, *, unknown_mean: bool) -> Kriged:
    """Krige ``(n, g)`` values measured at some rows of ``(n_spots, 2)`` positions.

    The mean is 0 (simple kriging), or unknown and estimated by generalised least squares (ordinary kriging).
    """
    center = values.mean(axis=0) if unknown_mean else np.zeros(values.shape[1])
    left, size, axes = np.linalg.svd(values - center, full_matrices=False)
    n_kept = min(N_COMPONENTS, int((size > 1e-6 * max(size[0], 1e-9)).sum()))
    scores, axes = left[:, :n_kept] * size[:n_kept], axes[:n_kept]
    thin = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAX_SPOTS)).astype(np.intp))
    chosen = choose_covariances(scores[thin], xy_um[rows[thin]], unknown_mean=unknown_mean)
    mean, variance, nugget = np.empty((len(xy_um), n_kept)), np.empty((len(xy_um), n_kept)), np.empty(n_kept)
    for covariance in dict.fromkeys(chosen):
        same = np.array([each == covariance for each in chosen])
        found = krige_components(scores[:, same], covariance, xy_um, rows, unknown_mean=unknown_mean)
        mean[:, same], variance[:, same], nugget[same] = found
    rest = (values - center - scores @ axes).var(axis=0)
    squared = axes**2
    noise = nugget @ squared + rest
    return Kriged(
        mean=center + mean @ axes,
        variance=variance @ squared + noise,
        noise=noise,
        range_um=chosen[0].range_um if chosen and chosen[0].signal_to_nugget else 0.0,
    )


def choose_covariances(scores: Array, xy_um: Array, *, unknown_mean: bool) -> list[Covariance]:
    """The covariance of each component of ``(n, k)`` with the best leave-one-out likelihood, times its prior."""
    n, found = len(scores), []
    for covariance in CANDIDATES:
        residual, precision = leave_one_out(scores, covariance.of(xy_um), unknown_mean=unknown_mean)
        variance = (residual**2 * precision[:, None]).mean(axis=0)
        likelihood = -0.5 * n * np.log(np.maximum(variance, 1e-12)) + 0.5 * np.log(precision).sum()
        found.append(likelihood + covariance.log_prior)
    return [CANDIDATES[i] for i in np.argmax(found, axis=0)]


def leave_one_out(values: Array, covariance: Array, *, unknown_mean: bool) -> tuple[Array, Array]:
    """Residuals ``(n, k)`` of each value predicted from all others, and ``(n,)`` their precision, in closed form."""
    precision = np.linalg.inv(covariance)
    if unknown_mean:
        sums = precision.sum(axis=0)
        precision -= np.outer(sums, sums) / sums.sum()
    own = np.diag(precision).copy()
    return (precision @ values) / own[:, None], own


def krige_components(
    scores: Array, covariance: Covariance, xy_um: Array, rows: NDArray[np.intp], *, unknown_mean: bool
) -> tuple[Array, Array, Array]:
    """Mean and variance ``(n_spots, k)`` without noise, and ``(k,)`` noise, of components with one covariance."""
    measured = covariance.of(xy_um[rows])
    residual, precision = leave_one_out(scores, measured, unknown_mean=unknown_mean)
    scale = np.maximum((residual**2 * precision[:, None]).mean(axis=0), 1e-12)
    mean, spread = np.zeros(scores.shape[1]), np.zeros(len(xy_um))
    weights = np.linalg.solve(measured, np.ones(len(rows)))
    if unknown_mean:
        mean = weights @ scores / weights.sum()
    if covariance.signal_to_nugget == 0:
        known = np.zeros((len(xy_um), scores.shape[1]))
        variance = np.zeros(len(xy_um))
    else:
        signal = 1 - covariance.nugget
        kernel = ConstantKernel(signal) * Matern(covariance.range_um, nu=0.5)
        process = GaussianProcessRegressor(kernel, alpha=covariance.nugget, optimizer=None)
        process.fit(xy_um[rows], scores - mean)
        known, std = (found.reshape(len(xy_um), -1) for found in process.predict(xy_um, return_std=True))
        variance = std[:, 0] ** 2
    if unknown_mean:  # universal kriging: the error of the mean
        spread = (1 - covariance.between(xy_um, xy_um[rows]) @ weights) ** 2 / weights.sum()
    return mean + known, np.outer(variance + spread, scale), covariance.nugget * scale
