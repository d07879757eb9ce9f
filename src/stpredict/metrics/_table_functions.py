"""Functions of rows of the table of scores that need more than one score of two arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._intervals import interval_score
from ._spatial import ssim_on
from .correlation import LEAST, pearson
from .inputs import nan_mean
from .structure import (
    autocorrelation_gap,
    coexpression_agreement,
    log_fold_agreement,
    pathway_scores,
    svg_overlap,
)
from .top_genes import N_TOP, top_variable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .inputs import Intervals, Prediction, Spots

N_COEXPRESSED = 1000
"""Genes whose correlations are compared, the most variable ones."""


def ssim_gain(observed: NDArray[np.float32], predicted: NDArray[np.float32], spots: Spots) -> NDArray[np.float64]:
    """Gain in structural similarity over a constant map, both at the level of the observed map; 1 is perfect."""
    level = observed.mean(axis=0, dtype=np.float64)
    shifted = predicted - predicted.mean(axis=0, dtype=np.float64) + level
    reached = ssim_on(observed, shifted, spots.weights)
    constant = ssim_on(observed, np.broadcast_to(level, observed.shape), spots.weights)
    gain: NDArray[np.float64] = (reached - constant) / (1 - constant)
    return gain


def interval_skill(observed: NDArray[np.float32], given: Intervals) -> NDArray[np.float64]:
    """1 minus the interval score over that of the best constant interval; NaN for a gene that is constant."""
    ends = np.quantile(observed, [(1 - given.coverage) / 2, (1 + given.coverage) / 2], axis=0)
    lower, upper = (np.broadcast_to(end, observed.shape) for end in ends)
    limit = interval_score(observed, lower, upper, coverage=given.coverage)
    score = interval_score(observed, given.lower, given.upper, coverage=given.coverage)
    return 1 - score / np.where(limit > 0, limit, np.nan)


def moran_agreement(observed: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Pearson correlation over genes of observed and predicted Moran's I; NaN where either is constant."""
    known = np.isfinite(observed) & np.isfinite(predicted)
    if known.sum() < LEAST or min(np.ptp(observed[known]), np.ptp(predicted[known])) < 1e-9:
        return float("nan")
    return float(np.corrcoef(observed[known], predicted[known])[0, 1])


def gene_pearson(whole: Prediction) -> float:
    """Mean over genes."""
    return float(nan_mean(whole.mean_by_gene("pearson")))


def top_variable_pearson(whole: Prediction) -> float:
    """Mean over the most variable genes."""
    marked = top_variable(whole.observed, n=min(N_TOP, whole.observed.shape[1]))
    return float(nan_mean(whole.mean_by_gene("pearson")[marked]))


def spot_pearson(whole: Prediction) -> float:
    """Mean over spots."""
    if whole.observed.shape[1] < LEAST:  # too few genes for a correlation
        return float("nan")
    return float(nan_mean(pearson(whole.observed, whole.predicted, axis="spot")))


def spot_r2(whole: Prediction) -> float:
    """Of the squares of all spots together: a mean of spots would let a constant score above 0."""
    error, deviation = 0.0, 0.0
    for rows in whole.slides:
        observed = whole.observed[rows].astype(np.float64)
        error += float(np.square(observed - whole.predicted[rows]).sum())
        deviation += float(np.square(observed - observed.mean(axis=0)).sum())
    return 1 - error / deviation if deviation > 0 else float("nan")


def share_of_ceiling(whole: Prediction) -> float:
    """Mean correlation over the mean ceiling."""
    ceiling = float(nan_mean(whole.mean_by_gene("ceiling")))
    return gene_pearson(whole) / ceiling if ceiling > 0 else float("nan")


def mean_moran_agreement(whole: Prediction) -> float:
    """Mean over slides."""
    slides = zip(whole.by_gene["moran_observed"], whole.by_gene["moran_predicted"], strict=True)
    return float(nan_mean(np.array([moran_agreement(observed, predicted) for observed, predicted in slides])))


def moran_gap(whole: Prediction) -> float:
    """Mean over slides of the gap of Moran's I."""
    given = (whole.by_gene[name] for name in ("moran_observed", "moran_predicted", "ceiling"))
    return float(nan_mean(np.array([autocorrelation_gap(*slide) for slide in zip(*given, strict=True)])))


def geary_gap(whole: Prediction) -> float:
    """As of Moran's I, of 1 - C: counting noise has C = 1, and a constant map C = 0."""
    given = (1 - whole.by_gene["geary_observed"], 1 - whole.by_gene["geary_predicted"], whole.by_gene["ceiling"])
    return float(nan_mean(np.array([autocorrelation_gap(*slide) for slide in zip(*given, strict=True)])))


def mean_svg_overlap(whole: Prediction) -> float:
    """Mean over slides; predicted values are lowered by counting noise, as the observed ones are."""
    observed, predicted, ceiling = (whole.by_gene[name] for name in ("moran_observed", "moran_predicted", "ceiling"))
    noisy = predicted * np.nan_to_num(ceiling, nan=1.0) ** 2
    return float(nan_mean(np.array([svg_overlap(*pair, n=N_TOP) for pair in zip(observed, noisy, strict=True)])))


def coexpression(whole: Prediction) -> float:
    """Mean over slides, of the most variable genes."""
    genes = top_variable(whole.observed, n=N_COEXPRESSED)
    if genes.sum() < LEAST:
        return float("nan")
    ceiling = whole.by_gene["ceiling"][:, genes]
    return whole.mean_over_slides(
        lambda observed, predicted, i: coexpression_agreement(
            observed[:, genes], predicted[:, genes], ceiling=ceiling[i]
        )
    )


def domain_log_fold(whole: Prediction, domains: NDArray[Any]) -> float:
    """Mean over slides; one with fewer than two domains has none."""
    return whole.mean_over_slides(
        lambda observed, predicted, i: log_fold_agreement(observed, predicted, domains[whole.slides[i]])
    )


def pathway_pearson(whole: Prediction, pathways: Mapping[str, Sequence[str]]) -> float:
    """Mean over pathways, then slides."""

    def of_slide(observed: NDArray[np.float32], predicted: NDArray[np.float32], _: int) -> float:
        of_spots = [pathway_scores(values, whole.genes, pathways) for values in (observed, predicted)]
        return float(nan_mean(pearson(*of_spots)))

    return whole.mean_over_slides(of_slide)


def coverage_gap(whole: Prediction, nominal: float) -> float:
    """Mean over genes of the absolute difference from the nominal coverage."""
    return float(nan_mean(np.abs(whole.mean_by_gene("coverage") - nominal)))
