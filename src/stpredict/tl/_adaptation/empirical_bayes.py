"""Correct predictions by a few measured spots: effects that are shrunk towards zero by empirical Bayes.

The residual of a gene at the measured spots is ``offset + slope (p - c) + z w + noise``: ``p`` is the prediction, ``c``
its mean over the slide, ``z`` the first principal components of the predictions. Offset and weights ``w`` of each gene
are normal with mean 0 and variances that all genes share, in units of the gene's own residual variance. The posterior
mean is averaged over a grid of these variances, weighted by marginal likelihood; the grid contains 0. The slope is one
for all genes. Noise is correlated between neighbouring spots, so that a contiguous region counts as fewer spots. The
weights are used only if they lower the leave-one-out error by more than its standard error over spots: genes are
correlated, so that a likelihood over genes alone is too sure of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from .._predictor.adaptation import Adaptation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SIGNAL_TO_NUGGET, RANGE_UM = 0.3, 400.0
"""Spatial variance of residuals over that of independent noise, and the distance at which their correlation has fallen
to 1/e. Typical of full slides in ``benchmarks/adapt.py``; a few spots of one region cannot tell them from an offset."""
N_COMPONENTS = 5
"""Most principal components of the predictions that the head uses."""
OFFSET_VARIANCES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
HEAD_VARIANCES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Variances that are tried, over the residual variance of the gene."""
SLOPE_VARIANCE = 0.1
"""Prior variance of the common slope."""
GENE_WEIGHT = 0.1
"""Genes are correlated: the likelihood of all counts as that of a tenth of them."""
PRIOR_SPOTS = 4.0
"""Number of spots that the prior of a gene's residual variance is worth."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Effects:
    """Posterior of the effects of all genes, in units of the residual standard deviation of each gene."""

    mean: Array
    """``(q, g)`` posterior mean."""
    covariance: Array
    """``(q, q)`` posterior covariance, times the residual variance."""
    variances: tuple[float, float]
    """Prior variance of offsets and of weights, averaged over the grid."""


def exponential_covariance(distance_um: Array, signal_to_nugget: float, range_um: float) -> Array:
    """Spatial part of a covariance whose total variance is 1, at some distances."""
    covariance: Array = signal_to_nugget / (1 + signal_to_nugget) * np.exp(-distance_um / range_um)
    return covariance


def noise_covariance(xy_um: Array) -> Array:
    """``(n, n)`` covariance of residuals, for effects of the whole slide: spatial part and nugget."""
    nugget = 1 / (1 + SIGNAL_TO_NUGGET)
    return exponential_covariance(cdist(xy_um, xy_um), SIGNAL_TO_NUGGET, RANGE_UM) + nugget * np.eye(len(xy_um))


def shrunken_slope(residual: Array, deviation: Array, covariance: Array) -> float:
    """Slope of residuals on predictions ``(n, g)``, one for all genes, free of offsets and shrunk towards 0."""
    precision = np.linalg.inv(covariance)
    sums = precision.sum(axis=0)
    precision -= np.outer(sums, sums) / sums.sum()
    weighted = precision @ deviation
    of_spot, power = (weighted * residual).sum(axis=1), (weighted * deviation).sum(axis=1)
    if power.sum() < 1e-9:
        return 0.0
    slope = of_spot.sum() / power.sum()
    squared_error = ((of_spot - slope * power) ** 2).sum() / power.sum() ** 2  # spots are independent, genes are not
    return float(np.clip(slope * SLOPE_VARIANCE / (SLOPE_VARIANCE + squared_error), -1, 1))


def selected_effects(residual: Array, design: Array, covariance: Array) -> Effects:
    """`shrunken_effects`, with weights other than the offset only if they lower the error of spots that are left out.

    Variances are estimated over genes as if genes were independent; spots are, and errors of a spot test them.
    """
    full, offset = (shrunken_effects(residual, design[:, :q], covariance) for q in (design.shape[1], 1))
    prior = [np.diag([full.variances[0], *[full.variances[1]] * (design.shape[1] - 1)]), np.diag(offset.variances[:1])]
    errors = [
        leave_one_out(residual, covariance + columns @ variances @ columns.T)
        for columns, variances in ((design, prior[0]), (design[:, :1], prior[1]))
    ]
    if is_better(*errors):
        return full
    padding = design.shape[1] - 1
    return Effects(
        mean=np.pad(offset.mean, ((0, padding), (0, 0))),
        covariance=np.pad(offset.covariance, (0, padding)),
        variances=(offset.variances[0], 0.0),
    )


def leave_one_out(values: Array, covariance: Array) -> Array:
    """Errors ``(n, k)`` of values with mean 0, each predicted from those of all other spots."""
    precision = np.linalg.inv(covariance)
    errors: Array = (precision @ values) / np.diag(precision)[:, None]
    return errors


def is_better(errors: Array, than: Array) -> bool:
    """Whether squared errors ``(n, k)`` are lower by more than the standard error of their difference over spots."""
    gain = (than**2 - errors**2).sum(axis=1)
    return bool(gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain)))


def shrunken_effects(residual: Array, design: Array, covariance: Array) -> Effects:
    """Effects of ``(n, q)`` columns, the first of which is the offset, on standardised residuals ``(n, g)``."""
    n, q = design.shape
    factor = np.linalg.cholesky(covariance)
    white, columns = np.linalg.solve(factor, residual), np.linalg.solve(factor, design)
    gram, moments, squares = columns.T @ columns, columns.T @ white, (white**2).sum(axis=0)
    found, likelihood = [], []
    for offset, head in product(OFFSET_VARIANCES, HEAD_VARIANCES if q > 1 else (0.0,)):
        std = np.sqrt(np.r_[offset, np.full(q - 1, head)])
        posterior = np.linalg.inv(np.eye(q) + std[:, None] * gram * std)
        mean = std[:, None] * (posterior @ (std[:, None] * moments))
        rest = squares - (moments * mean).sum(axis=0)
        determinant = -np.linalg.slogdet(posterior)[1]
        student = (n + PRIOR_SPOTS) * np.log(PRIOR_SPOTS + np.maximum(rest, 0)) + determinant
        likelihood.append(-0.5 * GENE_WEIGHT * student.sum())
        found.append((mean, std[:, None] * posterior * std, offset, head))
    weights = np.exp(np.array(likelihood) - max(likelihood))
    weights /= weights.sum()
    mean, spread, offset, head = (sum(w * each[i] for w, each in zip(weights, found, strict=True)) for i in range(4))
    return Effects(mean=mean, covariance=spread, variances=(float(offset), float(head)))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Fit:
    """An adaptation, and what kriging of its residuals needs."""

    adaptation: Adaptation
    scale: Array
    """``(g,)`` standard deviation of the residuals."""
    design_variance: Array
    """``(n_spots,)`` posterior variance of the adapted mean, over the residual variance."""


def fit_adaptation(
    predicted: NDArray[np.float32],
    observed: NDArray[np.float32],
    rows: NDArray[np.intp],
    xy_um: Array,
    gene_std: Array,
    slide: str,
) -> Fit:
    """Fit predictions ``(n_spots, g)`` of a slide to the expression ``(n, g)`` observed at some of its rows."""
    center = predicted.mean(axis=0, dtype=np.float64)
    deviation = predicted - center
    axes = principal_axes(deviation / gene_std)
    design = np.column_stack([np.ones(len(predicted)), (deviation / gene_std) @ axes.T])
    residual, covariance = observed.astype(np.float64) - predicted[rows], noise_covariance(xy_um[rows])
    scale = residual_scale(residual, gene_std)
    slope = shrunken_slope(residual / scale, deviation[rows] / scale, covariance)
    residual = (residual - slope * deviation[rows]) / scale
    effects = selected_effects(residual, design[rows], covariance)
    record = {
        "slide": slide,
        "n_measured": len(rows),
        "slope": 1 + slope,
        "offset_variance": effects.variances[0],
        "head_variance": effects.variances[1],
    }
    adaptation = Adaptation(
        center=center.astype(np.float32),
        offset=(scale * effects.mean[0]).astype(np.float32),
        scale=np.full(len(center), 1 + slope, np.float32),
        components=(axes / gene_std).astype(np.float32),
        head=(scale * effects.mean[1:]).astype(np.float32),
        record=record,
    )
    variance = np.einsum("nq,qr,nr->n", design, effects.covariance, design)
    return Fit(adaptation=adaptation, scale=scale, design_variance=variance)


def principal_axes(values: Array, share: float = 1e-3) -> Array:
    """``(k, g)`` principal axes of centred ``(n, g)`` values, divided so that projections have variance 1.

    Those with less than ``share`` of the standard deviation of the first are left out.
    """
    _, size, axes = np.linalg.svd(values, full_matrices=False)
    size = size / np.sqrt(len(values))
    kept = min(N_COMPONENTS, int((size > share * max(size[0], 1e-9)).sum()) if size[0] > 1e-9 else 0)
    scaled: Array = axes[:kept] / size[:kept, None]
    return scaled


def residual_scale(residual: Array, gene_std: Array) -> Array:
    """``(g,)`` standard deviation of residuals: that of each gene in training, times one factor for all genes."""
    factor = np.sqrt(np.median(residual.var(axis=0, ddof=1) / gene_std**2))
    scale: Array = np.maximum(factor, 1e-3) * gene_std
    return scale
