"""Scores of predictions, arrays in and numbers out: what one table and many models are judged by alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..metrics import best, mae, morans_i, noise_ceiling, pearson, rmse, spearman, top_variable
from ..metrics.correlation import LEAST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from ..pp.targets import TargetSpec

N_BEST = 50
"""Genes of the favourable means."""


def by_gene(
    observed: NDArray[np.float32],
    predicted: NDArray[np.float32],
    xy: NDArray[np.float64],
    slide: NDArray[np.str_] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Scores of every gene across spots.

    Parameters
    ----------
    observed, predicted
        ``(n, g)``, in the same units.
    xy
        ``(n, 2)`` centres of the spots.
    slide
        ``(n,)`` slide of each spot, where there are several: neighbours are of the same slide.

    Returns
    -------
    ``(g,)`` each: ``pearson``, ``spearman``, ``rmse``, ``mae``, ``moran_predicted``.
    """
    return {
        "pearson": pearson(observed, predicted),
        "spearman": spearman(observed, predicted),
        "rmse": rmse(observed, predicted),
        "mae": mae(observed, predicted),
        "moran_predicted": morans_i(predicted, xy, slide=slide),
    }


def limits(
    counts: csr_matrix,
    library: NDArray[np.float64],
    observed: NDArray[np.float32],
    xy: NDArray[np.float64],
    spec: TargetSpec,
    slide: NDArray[np.str_] | None = None,
    *,
    n_splits: int,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """What can be said of genes without a prediction.

    Parameters
    ----------
    counts
        ``(n, g)`` raw counts of the genes.
    library
        ``(n,)`` counts of all genes of the spot.
    observed
        ``(n, g)`` what the counts are as targets.
    xy
        ``(n, 2)`` centres of the spots.
    spec
        How counts became targets.
    slide
        ``(n,)`` slide of each spot, where there are several.
    n_splits
        Random halvings for the noise ceiling.
    seed
        Seed of the halvings.

    Returns
    -------
    ``(g,)`` each: ``ceiling``, ``moran_observed``.
    """
    total = library if spec.over == "all" else None
    ceiling = noise_ceiling(
        counts, total=total, target_sum=spec.target_sum, log1p=spec.log1p, n_splits=n_splits, seed=seed
    )
    return {"ceiling": ceiling, "moran_observed": morans_i(observed, xy, slide=slide)}


def overall(
    observed: NDArray[np.float32],
    predicted: NDArray[np.float32],
    slides: Sequence[NDArray[np.bool_]],
    ceiling: float,
) -> dict[str, float]:
    """Scores of a prediction as a whole.

    Parameters
    ----------
    observed, predicted
        ``(n, g)``, in the same units.
    slides
        Masks ``(n,)``: correlations over spots are computed within each, and averaged.
    ceiling
        Mean noise ceiling of the genes.

    Returns
    -------
    The columns of `stp.tl.summary`, by name.
    """
    n = min(N_BEST, observed.shape[1])
    genes = known_mean(np.stack([pearson(observed[rows], predicted[rows]) for rows in slides]), axis=0)
    mean = float(known_mean(genes))
    return {
        "gene_pearson": mean,
        "gene_pearson_top50": float(known_mean(genes[top_variable(observed, n=n)])),
        "best50": best(genes, n=n),
        "spot_pearson": _spot_pearson(observed, predicted),
        "rmse": float(np.mean(rmse(observed, predicted, axis="spot"))),
        "mae": float(np.mean(mae(observed, predicted, axis="spot"))),
        "share_of_ceiling": mean / ceiling if ceiling > 0 else float("nan"),
    }


def agreement(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Correlation over genes of two scores, for instance of observed and predicted Moran's I.

    Parameters
    ----------
    first, second
        ``(g,)``; a gene with NaN in either is left out.

    Returns
    -------
    From -1 to 1; NaN where fewer than three genes are left, or either is constant.
    """
    known = np.isfinite(first) & np.isfinite(second)
    if known.sum() < LEAST or min(np.ptp(first[known]), np.ptp(second[known])) < 1e-9:
        return float("nan")
    return float(np.corrcoef(first[known], second[known])[0, 1])


def _spot_pearson(observed: NDArray[np.float32], values: NDArray[np.float32]) -> float:
    """Mean correlation over genes; NaN where there are too few genes for one."""
    if observed.shape[1] < LEAST:
        return float("nan")
    return float(known_mean(pearson(observed, values, axis="spot")))


def known_mean(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Mean of what is not NaN; NaN, without a warning, where nothing is.

    Parameters
    ----------
    values
        Any shape.
    axis
        Axis to average over; None is all.

    Returns
    -------
    ``values`` without that axis.
    """
    known = ~np.isnan(values)
    total, n = np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)
