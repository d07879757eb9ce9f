"""Expression of all spots of a slide from the measured ones: arrays only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...pp.targets import nonnegative
from .empirical_bayes import PRIOR_SPOTS, fit_adaptation
from .kriging import krige

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .._predictor.adaptation import Adaptation
    from .empirical_bayes import Array


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Imputed:
    """Expression of all spots of a slide."""

    expression: NDArray[np.float32]
    """``(n_spots, g)``, not below 0."""
    standard_error: NDArray[np.float32]
    """``(n_spots, g)`` standard deviation of a measurement around the expression."""
    noise: NDArray[np.float32]
    """``(g,)`` part of it that is noise of the measurement."""
    range_um: float
    """Range of the first component; 0 if it is noise."""
    adaptation: Adaptation | None = None
    """The adaptation of the predictor whose residuals were kriged."""


def krige_residuals(
    predicted: NDArray[np.float32],
    observed: NDArray[np.float32],
    rows: NDArray[np.intp],
    xy_um: Array,
    gene_std: Array,
    slide: str,
) -> Imputed:
    """Adapt predictions ``(n_spots, g)`` to those observed at some rows, and krige what is left."""
    fit = fit_adaptation(predicted, observed, rows, xy_um, gene_std, slide)
    adapted = fit.adaptation(predicted)
    found = krige((observed - adapted[rows]) / fit.scale, rows, xy_um, unknown_mean=False)
    variance = found.variance + np.outer(fit.design_variance, np.ones_like(fit.scale))
    return Imputed(
        expression=nonnegative((adapted + fit.scale * found.mean).astype(np.float32)),
        standard_error=(fit.scale * np.sqrt(variance)).astype(np.float32),
        noise=(fit.scale * np.sqrt(found.noise)).astype(np.float32),
        range_um=found.range_um,
        adaptation=fit.adaptation,
    )


def krige_alone(observed: NDArray[np.float32], rows: NDArray[np.intp], xy_um: Array) -> Imputed:
    """Ordinary kriging of the expression that was observed at some rows."""
    values = observed.astype(np.float64)
    n, variance = len(values), values.var(axis=0, ddof=1)
    scale = np.sqrt(np.maximum((n * variance + PRIOR_SPOTS * np.median(variance)) / (n + PRIOR_SPOTS), 1e-6))
    found = krige(values / scale, rows, xy_um, unknown_mean=True)
    return Imputed(
        expression=nonnegative((scale * found.mean).astype(np.float32)),
        standard_error=(scale * np.sqrt(found.variance)).astype(np.float32),
        noise=(scale * np.sqrt(found.noise)).astype(np.float32),
        range_um=found.range_um,
    )
